/* A layer that forgets what was not synced. See README.md.
 *
 * As a shared library (LD_PRELOAD) it lets every call through and, beside the files under $FORGETFUL_DIR, keeps in
 * $FORGETFUL_SHADOW what a disk would have after the loss of power: of each file the bytes up to its last fsync or
 * fdatasync, of each directory the names up to its last fsync. Compiled with -DROLLBACK it is the tool that puts that
 * state back. Everything is as pessimistic as POSIX allows, except that a sync is whole. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define BUFFER (1 << 16)
#define NAME_LINE (NAME_MAX + 64)

static char root[PATH_MAX], shadow[PATH_MAX];

/* shadow/data/ID is a file's synced content; shadow/names/DIR lists "ID kind name" of a directory's synced entries. */
static void data_path(char *out, const char *id) { snprintf(out, PATH_MAX, "%.3000s/data/%.200s", shadow, id); }

static void names_path(char *out, const char *dir) {
  int n = snprintf(out, PATH_MAX, "%.3000s/names/d", shadow);
  for (const char *p = dir + strlen(root); *p && n < PATH_MAX - 1; p++) out[n++] = *p == '/' ? '%' : *p;
  out[n] = 0;
}

#ifndef ROLLBACK

static void id_of(char *out, const struct stat *st) { snprintf(out, 64, "%lx-%lx", (long)st->st_dev, (long)st->st_ino); }

static int below(const char *path) {
  size_t n = strlen(root);
  return n && !strncmp(path, root, n) && (path[n] == 0 || path[n] == '/');
}

#define REAL(name) ((__typeof__(name) *)real(#name))
static void *real(const char *name) {
  void *f = dlsym(RTLD_NEXT, name);
  if (!f) abort();
  return f;
}

struct range { off_t from, to; };
struct file {
  char id[64];
  struct range *dirty;
  size_t count, room;
  off_t cut; /* shortest length since the last sync */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file **files;
static size_t file_count;
#define FDS 65536
static struct file *by_fd[FDS];
static __thread int inside; /* our own calls are let through untouched */

static void die(const char *what) {
  perror(what);
  abort();
}

static struct file *file_for(const struct stat *st) {
  char id[64];
  id_of(id, st);
  for (size_t i = 0; i < file_count; i++)
    if (!strcmp(files[i]->id, id)) return files[i];
  struct file *f = calloc(1, sizeof *f);
  files = realloc(files, (file_count + 1) * sizeof *files);
  if (!f || !files) abort();
  strcpy(f->id, id);
  f->cut = LLONG_MAX;
  return files[file_count++] = f;
}

static void mark(struct file *f, off_t from, off_t to) {
  if (f->count && f->dirty[f->count - 1].to == from) {
    f->dirty[f->count - 1].to = to;
    return;
  }
  if (f->count == f->room) {
    f->room = f->room ? f->room * 2 : 16;
    f->dirty = realloc(f->dirty, f->room * sizeof *f->dirty);
    if (!f->dirty) abort();
  }
  f->dirty[f->count++] = (struct range){from, to};
}

/* Brings a file's shadow to its present content. */
static void keep_content(int fd, struct file *f, const struct stat *st) {
  char path[PATH_MAX], buffer[BUFFER];
  data_path(path, f->id);
  int out = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (out < 0) die(path);
  /* A descriptor that may be write-only is read through another one. */
  char proc[64];
  snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
  int in = open(proc, O_RDONLY | O_CLOEXEC);
  if (in < 0) die(proc);
  struct stat have;
  if (fstat(out, &have)) die(path);
  if (f->cut < have.st_size && ftruncate(out, f->cut)) die(path);
  for (size_t i = 0; i < f->count; i++)
    for (off_t at = f->dirty[i].from; at < f->dirty[i].to;) {
      size_t want = f->dirty[i].to - at < BUFFER ? (size_t)(f->dirty[i].to - at) : BUFFER;
      ssize_t n = pread(in, buffer, want, at);
      if (n <= 0) break;
      if (pwrite(out, buffer, n, at) != n) die(path);
      at += n;
    }
  if (ftruncate(out, st->st_size)) die(path);
  close(in);
  close(out);
  f->count = 0;
  f->cut = LLONG_MAX;
}

static void keep_names(const char *dir) {
  char path[PATH_MAX], fresh[PATH_MAX + 8], entry[PATH_MAX];
  names_path(path, dir);
  snprintf(fresh, sizeof fresh, "%s.new", path);
  FILE *out = fopen(fresh, "we");
  DIR *d = opendir(dir);
  if (!out || !d) die(dir);
  for (struct dirent *e; (e = readdir(d));) {
    struct stat st;
    char id[64];
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    snprintf(entry, sizeof entry, "%.3000s/%s", dir, e->d_name);
    if (lstat(entry, &st)) continue;
    id_of(id, &st);
    fprintf(out, "%s %c %s\n", id, S_ISDIR(st.st_mode) ? 'd' : 'f', e->d_name);
  }
  closedir(d);
  if (fclose(out) || rename(fresh, path)) die(path);
}

/* What is there when the layer is first used counts as synced. */
static void keep_tree(const char *dir) {
  keep_names(dir);
  DIR *d = opendir(dir);
  if (!d) die(dir);
  for (struct dirent *e; (e = readdir(d));) {
    char entry[PATH_MAX];
    struct stat st;
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    snprintf(entry, sizeof entry, "%.3000s/%s", dir, e->d_name);
    if (lstat(entry, &st)) continue;
    if (S_ISDIR(st.st_mode)) keep_tree(entry);
    if (!S_ISREG(st.st_mode)) continue;
    int fd = open(entry, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(entry);
    struct file *f = file_for(&st);
    mark(f, 0, st.st_size);
    keep_content(fd, f, &st);
    close(fd);
  }
  closedir(d);
}

/* Called with the lock held, before the last name of a file goes: its number may be given to another file, while its
 * removal is not synced yet. Its shadow gets a name of its own, and the directory's list follows. */
static void retire(const char *path) {
  struct stat st;
  char id[64], old[PATH_MAX], moved[PATH_MAX], dir[PATH_MAX], list[PATH_MAX], fresh[PATH_MAX + 8], line[NAME_LINE];
  static unsigned serial;
  if (lstat(path, &st) || !S_ISREG(st.st_mode) || st.st_nlink != 1) return;
  id_of(id, &st);
  for (size_t i = 0; i < file_count; i++)
    if (!strcmp(files[i]->id, id)) files[i]->id[0] = 0; /* open descriptors go on, without a shadow */
  char name[128];
  snprintf(name, sizeof name, "%s.gone%u-%d", id, serial++, (int)getpid());
  data_path(old, id);
  data_path(moved, name);
  if (rename(old, moved)) return;
  snprintf(dir, sizeof dir, "%s", path);
  *strrchr(dir, '/') = 0;
  names_path(list, dir);
  snprintf(fresh, sizeof fresh, "%s.new", list);
  FILE *in = fopen(list, "re"), *out = fopen(fresh, "we");
  if (in && out)
    while (fgets(line, sizeof line, in)) {
      size_t n = strlen(id);
      if (!strncmp(line, id, n) && line[n] == ' ') fprintf(out, "%s%s", name, line + n);
      else fputs(line, out);
    }
  if (in) fclose(in);
  if (out && (fclose(out) || rename(fresh, list))) die(list);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void start(void) {
  const char *dir = getenv("FORGETFUL_DIR"), *beside = getenv("FORGETFUL_SHADOW");
  inside++;
  if (dir && beside && realpath(dir, root)) {
    char data[PATH_MAX + 8], names[PATH_MAX + 8];
    snprintf(shadow, sizeof shadow, "%s", beside);
    snprintf(data, sizeof data, "%s/data", shadow);
    snprintf(names, sizeof names, "%s/names", shadow);
    mkdir(shadow, 0700);
    mkdir(data, 0700);
    if (!mkdir(names, 0700)) keep_tree(root);
  }
  inside--;
}
static int active(void) {
  if (inside) return 0;
  pthread_once(&once, start);
  return root[0] != 0;
}

static int path_of(int fd, char *out) {
  char proc[64];
  snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(proc, out, PATH_MAX - 1);
  if (n < 0) return 0;
  out[n] = 0;
  return below(out);
}

static int opened(int fd, int flags) {
  int error = errno;
  if (fd < 0 || fd >= FDS || !active()) return fd;
  inside++;
  pthread_mutex_lock(&lock);
  char path[PATH_MAX];
  struct stat st;
  by_fd[fd] = NULL;
  if (path_of(fd, path) && !fstat(fd, &st) && S_ISREG(st.st_mode)) {
    by_fd[fd] = file_for(&st);
    if (flags & O_TRUNC) by_fd[fd]->cut = 0;
  }
  pthread_mutex_unlock(&lock);
  inside--;
  errno = error;
  return fd;
}

#define MODE                                                       \
  mode_t mode = 0;                                                 \
  if (flags & (O_CREAT | O_TMPFILE)) {                             \
    va_list args;                                                  \
    va_start(args, flags);                                         \
    mode = va_arg(args, mode_t);                                   \
    va_end(args);                                                  \
  }
int open(const char *path, int flags, ...) { MODE return opened(REAL(open)(path, flags, mode), flags); }
int open64(const char *path, int flags, ...) { MODE return opened(REAL(open64)(path, flags, mode), flags); }
int openat(int dir, const char *path, int flags, ...) { MODE return opened(REAL(openat)(dir, path, flags, mode), flags); }
int openat64(int dir, const char *path, int flags, ...) { MODE return opened(REAL(openat64)(dir, path, flags, mode), flags); }

static ssize_t wrote(int fd, ssize_t n, off_t at) {
  if (n <= 0 || fd < 0 || fd >= FDS || !active() || !by_fd[fd]) return n;
  int error = errno;
  pthread_mutex_lock(&lock);
  if (at < 0) at = lseek(fd, 0, SEEK_CUR) - n;
  mark(by_fd[fd], at, at + n);
  pthread_mutex_unlock(&lock);
  errno = error;
  return n;
}
ssize_t write(int fd, const void *b, size_t n) { return wrote(fd, REAL(write)(fd, b, n), -1); }
ssize_t writev(int fd, const struct iovec *v, int n) { return wrote(fd, REAL(writev)(fd, v, n), -1); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t at) { return wrote(fd, REAL(pwrite)(fd, b, n, at), at); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at) { return wrote(fd, REAL(pwrite64)(fd, b, n, at), at); }

static int cut(int fd, int result, off_t length) {
  if (!result && fd >= 0 && fd < FDS && active() && by_fd[fd]) {
    pthread_mutex_lock(&lock);
    if (length < by_fd[fd]->cut) by_fd[fd]->cut = length;
    pthread_mutex_unlock(&lock);
  }
  return result;
}
int ftruncate(int fd, off_t length) { return cut(fd, REAL(ftruncate)(fd, length), length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, REAL(ftruncate64)(fd, length), length); }

/* The sync itself first: only what the kernel says is synced is remembered. */
static int synced(int fd, int result) {
  if (result || !active()) return result;
  char path[PATH_MAX];
  struct stat st;
  inside++;
  pthread_mutex_lock(&lock);
  if (!fstat(fd, &st) && path_of(fd, path)) {
    if (S_ISDIR(st.st_mode)) keep_names(path);
    else if (fd < FDS && by_fd[fd] && by_fd[fd]->id[0]) keep_content(fd, by_fd[fd], &st);
  }
  pthread_mutex_unlock(&lock);
  inside--;
  return result;
}
int fsync(int fd) { return synced(fd, REAL(fsync)(fd)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)(fd)); }

int close(int fd) {
  if (fd >= 0 && fd < FDS && !inside) by_fd[fd] = NULL;
  return REAL(close)(fd);
}

static void retire_path(const char *path) {
  char dir[PATH_MAX], full[PATH_MAX];
  if (!active()) return;
  inside++;
  snprintf(dir, sizeof dir, "%s", path);
  char *slash = strrchr(dir, '/');
  const char *name = slash ? path + (slash - dir) + 1 : path;
  if (slash) *slash = 0;
  if (realpath(slash ? (*dir ? dir : "/") : ".", full) && below(full)) {
    char target[PATH_MAX];
    snprintf(target, sizeof target, "%.3000s/%s", full, name);
    pthread_mutex_lock(&lock);
    retire(target);
    pthread_mutex_unlock(&lock);
  }
  inside--;
}
int unlink(const char *path) {
  retire_path(path);
  return REAL(unlink)(path);
}
int rename(const char *from, const char *to) {
  if (!inside) retire_path(to);
  return REAL(rename)(from, to);
}

#else /* ROLLBACK */

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void copy(const char *from, const char *to) {
  char buffer[BUFFER];
  int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600), in = open(from, O_RDONLY);
  if (out < 0) die(to);
  /* A name that was synced, of a file that never was: it is there and empty. */
  if (in < 0 && errno != ENOENT) die(from);
  for (ssize_t n; in >= 0 && (n = read(in, buffer, BUFFER)) > 0;)
    if (write(out, buffer, n) != n) die(to);
  if (in >= 0) close(in);
  close(out);
}

static void wipe(const char *path) {
  struct stat st;
  if (lstat(path, &st)) return;
  if (S_ISDIR(st.st_mode)) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
      char entry[PATH_MAX];
      if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
      snprintf(entry, sizeof entry, "%.3000s/%s", path, e->d_name);
      wipe(entry);
    }
    if (d) closedir(d);
    if (strcmp(path, root) && rmdir(path)) die(path);
  } else if (unlink(path)) {
    die(path);
  }
}

static void restore(const char *dir, const char *listed_as) {
  char list[PATH_MAX], line[NAME_LINE];
  names_path(list, listed_as);
  FILE *in = fopen(list, "r");
  while (in && fgets(line, sizeof line, in)) {
    char id[256], kind, path[PATH_MAX], content[PATH_MAX];
    int at = 0;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "%255s %c %n", id, &kind, &at) < 2 || !at) die(line);
    snprintf(path, sizeof path, "%.3000s/%s", dir, line + at);
    if (kind == 'd') {
      if (mkdir(path, 0700) && errno != EEXIST) die(path);
      restore(path, path);
    } else {
      data_path(content, id);
      copy(content, path);
    }
  }
  if (in) fclose(in);
}

int main(int argc, char **argv) {
  if (argc != 3 || !realpath(argv[1], root)) {
    fprintf(stderr, "usage: %s DIR SHADOW\n", argv[0]);
    return 2;
  }
  snprintf(shadow, sizeof shadow, "%s", argv[2]);
  wipe(root);
  restore(root, root);
  /* The next run takes stock anew. */
  strcpy(root, "/");
  wipe(shadow);
  return 0;
}
#endif
