"""The mount table: network file systems are recognised, and files that are mounted by themselves."""

from pathlib import Path, PurePosixPath

import pytest

from codellama_proxy.core import mounts
from tests.support.cases import each

TABLE = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:30 / /data rw - nfs4 server:/export rw,vers=4.2
31 22 0:31 / /data/local rw - xfs /dev/vdb rw
32 22 0:32 / /my\040files rw - fuse.sshfs me@host: rw
33 22 0:33 / /twice rw - ext4 /dev/vdc rw
34 33 0:34 / /twice rw - cifs //server/share rw
35 22 0:35 / /ntfs rw - fuseblk /dev/sdb1 rw
36 22 0:36 / /run rw master:5 propagate_from:2 - tmpfs tmpfs rw
"""


@each(
    ("place", "kind", "remote"),
    [
        ("/", "ext4", False),
        ("/var/lib", "ext4", False),
        ("/data", "nfs4", True),
        ("/data/deep/er", "nfs4", True),
        ("/database", "ext4", False),
        ("/data/local", "xfs", False),
        ("/my files/x", "fuse.sshfs", True),
        ("/twice", "cifs", True),
        ("/ntfs", "fuseblk", False),
        ("/run/x", "tmpfs", False),
    ],
)
def test_the_deepest_and_latest_mount_is_used(place: str, kind: str, remote: bool) -> None:
    assert mounts.filesystem_of(PurePosixPath(place), TABLE) == kind
    assert mounts.is_network(kind) is remote


@pytest.mark.parametrize("table", ["", "nonsense\n", "1 2 3\n- - -\n"])
def test_an_empty_mount_table_causes_no_warning(table: str) -> None:
    assert mounts.filesystem_of(PurePosixPath("/data"), table) is None
    assert not mounts.is_network(None)


def test_a_local_disk_causes_no_warning(tmp_path: Path) -> None:
    assert mounts.database_warning(tmp_path / "not" / "yet" / "proxy.db") is None


MOUNTINFO = """\
22 1 0:21 / / rw,relatime - overlay overlay rw
40 22 8:1 /home/me/proxy.yaml /app/proxy.yaml rw,relatime - ext4 /dev/sda1 rw
41 22 8:1 /home/me/my\\040conf /app/my\\040conf rw,relatime - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("path", "alone"),
    [
        ("/app/proxy.yaml", True),
        ("/app/my conf", True),
        ("/app/my conf/proxy.yaml", False),
        ("/etc/proxy.yaml", False),
    ],
)
def test_a_file_mounted_by_itself_is_detected(path: str, alone: bool) -> None:
    assert mounts.is_mount_point(Path(path), MOUNTINFO) is alone
