/* A power cut, for one process: preloaded, it keeps in SHADOW_TO what of the files below
 * SHADOW_FROM is certain to survive.
 *
 * That is, of each file, what it held when the last fsync or fdatasync that succeeded was called:
 * the copy is taken before the call and takes its name after it, so bytes that another thread
 * writes meanwhile do not count. Nothing else survives: no write without fsync, no rename, no
 * removal. Both folders are given with a slash at the end.
 *
 * With SHADOW_FAIL_AFTER=n the disk breaks: after n calls every fdatasync fails with EIO. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_LEN 4096

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* Makes the folders above a file. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* Finds where a file is kept; 0 if it is not one of those watched. */
static int target_of(int fd, char *source, char *target) {
    const char *from = getenv("SHADOW_FROM"), *to = getenv("SHADOW_TO");
    char link[64];
    struct stat status;
    if (!from || !to || fstat(fd, &status) || !S_ISREG(status.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, source, PATH_LEN - 1);
    if (len <= 0) return 0;
    source[len] = 0;
    if (strncmp(source, from, strlen(from))) return 0;
    return snprintf(target, PATH_LEN, "%s%s", to, source + strlen(from)) < PATH_LEN - 8;
}

static int copy(const char *source, const char *target) {
    static char buffer[1 << 20];
    int in = open(source, O_RDONLY), out = open(target, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    ssize_t len = -1;
    if (in >= 0 && out >= 0) {
        while ((len = read(in, buffer, sizeof buffer)) > 0)
            if (write(out, buffer, len) != len) { len = -1; break; }
    }
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return len == 0;
}

static int is_broken(const char *name) {
    static long calls;
    const char *after = getenv("SHADOW_FAIL_AFTER");
    return after && strcmp(name, "fdatasync") == 0 && calls++ >= atol(after);
}

static int synced(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    char source[PATH_LEN], target[PATH_LEN], half[PATH_LEN + 8];
    if (!real) { errno = ENOSYS; return -1; }
    if (!target_of(fd, source, target)) return real(fd);
    pthread_mutex_lock(&one_at_a_time);
    if (is_broken(name)) {
        pthread_mutex_unlock(&one_at_a_time);
        errno = EIO;
        return -1;
    }
    make_folders(target);
    snprintf(half, sizeof half, "%s.half", target);
    int copied = copy(source, half);
    int result = real(fd);
    int error = errno;
    if (copied && result == 0) rename(half, target);
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return result;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
