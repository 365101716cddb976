/* Preloaded into a server: each sync of a file takes 200 ms longer, and is noted on stderr. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void stall(void) {
    struct timespec pause = {0, 200000000};
    dprintf(2, "stalled sync\n");
    nanosleep(&pause, NULL);
}

int fsync(int file) {
    stall();
    return syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    stall();
    return syscall(SYS_fdatasync, file);
}
