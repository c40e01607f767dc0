/* Counts the calls that change files below a folder, or those that read them, and ends the process
   or fails one of them.

   cc -shared -fPIC -O1 -o interpose.so interpose.c -ldl;  LD_PRELOAD=interpose.so with

   FAULT_BELOW  the folder (no links, no end slash); other paths are left alone
   FAULT_ARMED  a file: calls count from when it is there
   FAULT_LOG    a file: each counted call is a line "number name path"
   FAULT_AT     the number of the call at which something happens, from 1; 0: none
   FAULT_ERRNO  what it fails with; 0: SIGKILL before it is made
   FAULT_FROM   1: all calls from that one on fail, as with a full disk
   FAULT_READS  1: calls that read count, and those that change do not

   Files are followed by their descriptors: writes to a file below the folder count, too. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long counter;

/* Counts anew: for a process that tries many faults. */
long interpose_reset(void) { return atomic_exchange(&counter, 0); }

static const char *value(const char *name) {
  const char *found = getenv(name);
  return found ? found : "";
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int below(int folder, const char *path) {
  char full[2 * PATH_MAX], start[PATH_MAX] = "";
  size_t length = strlen(value("FAULT_BELOW"));
  if (!length || !path) return 0;
  if (path[0] != '/') {
    char link[64];
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, start, sizeof start - 1);
    if (n < 0) return 0;
    start[n] = 0;
  }
  snprintf(full, sizeof full, "%s%s%s", start, path[0] == '/' ? "" : "/", path);
  return !strncmp(full, value("FAULT_BELOW"), length) && (full[length] == '/' || !full[length]);
}

static int open_below(int fd, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, size - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return below(AT_FDCWD, path);
}

enum kind { CHANGES, READS };

/* 1 if this call is to fail; errno is set. */
static int fault(enum kind kind, const char *name, const char *path) {
  if (kind != (atoi(value("FAULT_READS")) ? READS : CHANGES)) return 0;
  if (!*value("FAULT_ARMED") || access(value("FAULT_ARMED"), F_OK)) return 0;
  long number = atomic_fetch_add(&counter, 1) + 1, at = atol(value("FAULT_AT"));
  int error = atoi(value("FAULT_ERRNO"));
  if (*value("FAULT_LOG")) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path);
    int (*real_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    ssize_t (*real_write)(int, const void *, size_t) =
        (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    int fd = real_open(value("FAULT_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0) {
      if (real_write(fd, line, length) < 0) abort();
      close(fd);
    }
  }
  if (!at || number < at || (number > at && !atoi(value("FAULT_FROM")))) return 0;
  if (!error) {
    kill(getpid(), SIGKILL);
    pause();
  }
  errno = error;
  return 1;
}

static enum kind kind_of(int flags) {
  return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? CHANGES : READS;
}

#define OPEN(name, head, folder, ...) \
  int name(head const char *path, int flags, ...) { \
    REAL(name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    if (below(folder, path) && fault(kind_of(flags), #name, path)) return -1; \
    return real(__VA_ARGS__ path, flags, mode); \
  }
#define NOTHING
#define COMMA ,
OPEN(open, NOTHING, AT_FDCWD, )
OPEN(open64, NOTHING, AT_FDCWD, )
OPEN(openat, int dir COMMA, dir, dir COMMA)
OPEN(openat64, int dir COMMA, dir, dir COMMA)

FILE *fopen(const char *path, const char *mode) {
  REAL(fopen);
  enum kind kind = strpbrk(mode, "wa+") ? CHANGES : READS;
  if (below(AT_FDCWD, path) && fault(kind, "fopen", path)) return NULL;
  return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
  REAL(fopen64);
  enum kind kind = strpbrk(mode, "wa+") ? CHANGES : READS;
  if (below(AT_FDCWD, path) && fault(kind, "fopen64", path)) return NULL;
  return real(path, mode);
}

DIR *opendir(const char *path) {
  REAL(opendir);
  if (below(AT_FDCWD, path) && fault(READS, "opendir", path)) return NULL;
  return real(path);
}

#define ON_FD(kind, type, name, arguments, ...) \
  type name arguments { \
    REAL(name); \
    char path[PATH_MAX]; \
    if (fd > 2 && open_below(fd, path, sizeof path) && fault(kind, #name, path)) return -1; \
    return real(__VA_ARGS__); \
  }
ON_FD(CHANGES, ssize_t, write, (int fd, const void *data, size_t size), fd, data, size)
ON_FD(CHANGES, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), fd, data, size, at)
ON_FD(CHANGES, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, data, size, at)
ON_FD(CHANGES, ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, parts, count)
ON_FD(CHANGES, ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), fd, parts, count, at)
ON_FD(CHANGES, int, ftruncate, (int fd, off_t size), fd, size)
ON_FD(CHANGES, int, ftruncate64, (int fd, off64_t size), fd, size)
ON_FD(CHANGES, int, fsync, (int fd), fd)
ON_FD(CHANGES, int, fdatasync, (int fd), fd)

ON_FD(READS, ssize_t, read, (int fd, void *data, size_t size), fd, data, size)
ON_FD(READS, ssize_t, pread, (int fd, void *data, size_t size, off_t at), fd, data, size, at)
ON_FD(READS, ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), fd, data, size, at)
ON_FD(READS, ssize_t, readv, (int fd, const struct iovec *parts, int count), fd, parts, count)

#define ON_PATH(name, arguments, dir, path, ...) \
  int name arguments { \
    REAL(name); \
    if (below(dir, path) && fault(CHANGES, #name, path)) return -1; \
    return real(__VA_ARGS__); \
  }
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
ON_PATH(mkdirat, (int dir, const char *path, mode_t mode), dir, path, dir, path, mode)
ON_PATH(rmdir, (const char *path), AT_FDCWD, path, path)
ON_PATH(unlink, (const char *path), AT_FDCWD, path, path)
ON_PATH(unlinkat, (int dir, const char *path, int flags), dir, path, dir, path, flags)
ON_PATH(rename, (const char *from, const char *path), AT_FDCWD, path, from, path)
ON_PATH(renameat, (int d, const char *from, int dir, const char *path), dir, path, d, from, dir, path)
ON_PATH(renameat2, (int d, const char *from, int dir, const char *path, unsigned flags), dir, path, d,
        from, dir, path, flags)
ON_PATH(link, (const char *from, const char *path), AT_FDCWD, path, from, path)
ON_PATH(linkat, (int d, const char *from, int dir, const char *path, int flags), dir, path, d, from,
        dir, path, flags)
ON_PATH(symlink, (const char *from, const char *path), AT_FDCWD, path, from, path)
ON_PATH(truncate, (const char *path, off_t size), AT_FDCWD, path, path, size)
ON_PATH(chmod, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
