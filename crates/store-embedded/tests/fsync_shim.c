/* Makes fsync and fdatasync fail from a chosen call on. The file named by LONGHAUL_SYNCS holds how many syncs of
 * matching files are still to succeed; LONGHAUL_SYNC_MATCH says which files count. With LONGHAUL_SYNC_ONCE one fails and
 * those after it succeed, as where a kernel forgets the pages that it could not write. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int fd) {
    const char *counter = getenv("LONGHAUL_SYNCS"), *match = getenv("LONGHAUL_SYNC_MATCH");
    if (!counter || !match) return 0;
    char link[64], path[4096], text[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if (!strstr(path, match)) return 0;
    int file = open(counter, O_RDWR | O_CLOEXEC);
    if (file < 0) return 0;
    n = read(file, text, sizeof text - 1);
    text[n < 0 ? 0 : n] = 0;
    long left = strtol(text, NULL, 10);
    int once = left <= 0 && getenv("LONGHAUL_SYNC_ONCE");
    if (left > 0 || once) {
        n = snprintf(text, sizeof text, "%ld      ", once ? 999999 : left - 1);
        if (pwrite(file, text, n, 0) != n) left = 0;
    }
    close(file);
    return left <= 0;
}

int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return syscall(SYS_fdatasync, fd);
}
