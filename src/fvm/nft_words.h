/*
 * fvm/nft_words - the conditions and actions that our rules are written in
 *
 * A rule in nft.c is a short list of words, conditions first. Each becomes a few expressions.
 */
#ifndef FVM_NFT_WORDS_H
#define FVM_NFT_WORDS_H

#include "fvm/nft.h"

enum fvm_nft_word {
	END,
	FROM_VM,
	FROM_OTHER,
	TO_VM,
	TO_OTHER,
	IS4,
	IS6,
	ESTABLISHED,
	PUBLISHED, /* went through a port map */
	FIRST,	   /* nobody has let a packet of this connection through yet */
	IN_SET,	   /* the VM's link is in ARG */
	FROM_SET,  /* the incoming link is in ARG, as is */
	TO_SET,	   /* the outgoing one */
	GUEST4,	   /* link and source belong together */
	GUEST6,
	NAME4, /* to a name server */
	NAME6,
	DEST4, /* destination is in ARG */
	DEST6,
	RANGE4, /* source is one of our addresses */
	RANGE6,
	LOCAL,
	NOT_LOOP4,
	NOT_LOOP6,
	MAP4, /* by protocol and port, with ARG */
	MAP6,
	MAP_AT4, /* by address, protocol and port */
	MAP_AT6,
	OPENED, /* the VM opens more connections than most may; counted in ARG */
	OPEN,	/* it has more of them open */
	OWN,	/* to its own chain, in ARG, if it has one */
	MASQUERADE,
	JUMP,
	RETURN,
	ACCEPT,
	REJECT,
	DROP,
};

struct fvm_nft_context { /* of the rule that a word stands in */
	const char *arg; /* of the words that take one */
	const struct fvm_net_range *range;
	bool reject; /* REJECT says so to who sent the packet; else it is dropped */
	uint32_t connections; /* that most VMs may have */
};

/** fvm_nft_word() - append what @word means to the rule that was begun; not END */
void fvm_nft_word(struct fvm_nl_batch *b, enum fvm_nft_word word, const struct fvm_nft_context *c);

#endif
