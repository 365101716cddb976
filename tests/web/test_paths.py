"""The route of a path, as metrics and log lines name it."""

from codellama_proxy.web.paths import UNKNOWN, Paths
from tests.support.cases import each

PATHS = Paths(
    [
        *("/models", "/v1/models", "/models/{id:path}", "/v1/models/{id:path}", "/responses"),
        *("/responses/{id}", "/responses/{id}/input_items", "/responses/{id}/cancel"),
    ]
)


@each(
    ("path", "route"),
    [
        ("/v1/models", "/models"),
        ("/v1/models/a/b", "/models/{id}"),
        ("/models/", UNKNOWN),
        ("/v1/responses", "/responses"),
        ("/v1/responses/r", "/responses/{id}"),
        ("/responses/r/cancel", "/responses/{id}/cancel"),
        ("/v1/responses/r/input_items", "/responses/{id}/input_items"),
        ("/responses/cancel", "/responses/{id}"),
        ("/nothing", UNKNOWN),
    ],
)
def test_a_path_belongs_to_the_most_specific_route(path: str, route: str) -> None:
    assert PATHS.route(path) == route
