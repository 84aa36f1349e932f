/* A file system that takes its time: opening a file whose name begins with "slow_" takes 0.1 s, and adds a byte to the
   file that $SLOW_FILES_OPENED names. With $DISK_HANGS, nothing comes to the disk. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
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

int fsync(int file)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    if (getenv("DISK_HANGS"))
        sleep(3600);
    return next(file);
}
