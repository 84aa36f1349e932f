/* A file system that takes its time: opening a file whose name begins with "slow_" takes 0.1 s, and adds a byte to the
   file that $SLOW_FILES_OPENED names. With $DISK_HANGS, nothing comes to the disk ("fsync"), or nothing can be written to or
   read from a worker's own files ("write", "read"). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int open64(const char *path, int flags, ...)
{
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    if (strstr(path, "/slow_")) {
        usleep(100000);
        int opened = next(getenv("SLOW_FILES_OPENED"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (write(opened, ".", 1) != 1)
            abort();
        close(opened);
    }
    return next(path, flags, mode);
}

static void hang_at(const char *what)
{
    const char *hangs = getenv("DISK_HANGS");
    while (hangs && !strcmp(hangs, what))
        sleep(3600);
}

static void hang_at_own(const char *what, int file)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        if (strstr(path, "/catalogue.ndjson"))
            hang_at(what);
    }
}

int fsync(int file)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    hang_at("fsync");
    return next(file);
}

ssize_t write(int file, const void *bytes, size_t length)
{
    ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    hang_at_own("write", file);
    return next(file, bytes, length);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at)
{
    ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    hang_at_own("write", file);
    return next(file, bytes, length, at);
}

ssize_t read(int file, void *bytes, size_t length)
{
    ssize_t (*next)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    hang_at_own("read", file);
    return next(file, bytes, length);
}
