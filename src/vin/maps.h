/*
 * vin/maps - the memory map of a process, as /proc tells it
 *
 * Theory of operation
 *   /proc/PID/maps costs microseconds and tells where what is mapped; /proc/PID/smaps walks all
 * page tables (13 to 20 ms for a GiB) and tells the rest: flags that madvise(2), mlock(2) and
 * others have set, and how much of each area is there. So smaps is read while the program runs,
 * maps again when it is stopped, and smaps a second time only if the two differ (vin_maps_same()).
 *   Areas are in the order of their addresses and do not overlap; a text that says otherwise is
 *   none of the kernel's and is refused. Source: proc(5).
 */
#ifndef VIN_MAPS_H
#define VIN_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/common.h"

/* VmFlags of smaps: each of the kernel's two letters is a bit. Those that are not listed in maps.c
 * come with newer kernels and are kept in struct vin_vma's unknown. */
enum vin_vma_flag {
	VIN_VMA_READ,	       /* rd */
	VIN_VMA_WRITE,	       /* wr */
	VIN_VMA_EXEC,	       /* ex */
	VIN_VMA_SHARED,	       /* sh */
	VIN_VMA_MAY_READ,      /* mr */
	VIN_VMA_MAY_WRITE,     /* mw */
	VIN_VMA_MAY_EXEC,      /* me */
	VIN_VMA_MAY_SHARE,     /* ms */
	VIN_VMA_GROWSDOWN,     /* gd */
	VIN_VMA_PFN,	       /* pf */
	VIN_VMA_LOCKED,	       /* lo */
	VIN_VMA_IO,	       /* io */
	VIN_VMA_SEQUENTIAL,    /* sr */
	VIN_VMA_RANDOM,	       /* rr */
	VIN_VMA_DONTFORK,      /* dc */
	VIN_VMA_DONTEXPAND,    /* de */
	VIN_VMA_ACCOUNT,       /* ac */
	VIN_VMA_NORESERVE,     /* nr */
	VIN_VMA_HUGETLB,       /* ht */
	VIN_VMA_SYNC,	       /* sf */
	VIN_VMA_WIPEONFORK,    /* wf */
	VIN_VMA_DONTDUMP,      /* dd */
	VIN_VMA_SOFTDIRTY,     /* sd */
	VIN_VMA_MIXED,	       /* mm */
	VIN_VMA_HUGEPAGE,      /* hg */
	VIN_VMA_NOHUGEPAGE,    /* nh */
	VIN_VMA_MERGEABLE,     /* mg */
	VIN_VMA_UFFD_MISSING,  /* um */
	VIN_VMA_UFFD_WP,       /* uw */
	VIN_VMA_UFFD_MINOR,    /* ui */
	VIN_VMA_SHADOW_STACK,  /* ss */
	VIN_VMA_SEALED,	       /* sl */
	VIN_VMA_LOCK_ON_FAULT, /* lf */
	VIN_VMA_DROPPABLE,     /* dp */
	VIN_VMA_ARCH,	       /* ar */
	VIN_VMA_GUARDS,	       /* gu: some of its pages are traps */
	VIN_VMA_FLAGS
};

struct vin_vma {
	uint64_t start, end;
	uint64_t offset; /* in the file, in bytes */
	dev_t dev;
	ino_t ino; /* 0: no file */
	int prot;  /* as of mmap(2) */
	bool shared;
	char *name; /* path, "[heap]" and the like, or ""; " (deleted)" may stand behind it */
	/* of smaps only */
	uint64_t flags;	     /* bit 1 << enum vin_vma_flag */
	bool unknown;	     /* there are flags that we do not know */
	uint64_t present_kb; /* in memory or swapped out */
	uint64_t page_kb;    /* size of its pages */
	int key;	     /* protection key */
};

struct vin_maps { /* starts as { 0 } */
	struct vin_vma *vmas;
	size_t count;
	bool detailed; /* from smaps */
};

void vin_maps_free(struct vin_maps *m);
#define scoped_maps __attribute__((cleanup(vin_maps_free))) struct vin_maps

/**
 * vin_maps_parse() - the text of /proc/PID/maps or of smaps
 * @text: is changed
 * Return: 0, -EBADMSG (that is no such text), or -ENOMEM
 */
int vin_maps_parse(char *text, size_t len, struct vin_maps *ret, struct fvm_error *err);

/** vin_maps_read() - of a process. Return: as vin_maps_parse(), -ESRCH, or another negative errno
 */
int vin_maps_read(pid_t pid, bool detailed, struct vin_maps *ret, struct fvm_error *err);

/** vin_maps_find() - the area that holds @address, or NULL */
const struct vin_vma *vin_maps_find(const struct vin_maps *m, uint64_t address);

/** vin_maps_same() - whether both show the same areas, as far as maps tells */
bool vin_maps_same(const struct vin_maps *a, const struct vin_maps *b);

/** vin_vma_is() - whether a flag is set; of smaps only */
static inline bool vin_vma_is(const struct vin_vma *v, enum vin_vma_flag flag)
{
	return v->flags >> flag & 1;
}

#endif
