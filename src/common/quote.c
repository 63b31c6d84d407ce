#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/quote.h"

/* Length of the UTF-8 sequence at @p that is safe to print; 0: it is not. C1 controls,
 * bidirectional overrides and the like are code points too, and drive terminals or deceive readers.
 */
static size_t utf8_safe(const unsigned char *p)
{
	if (p[0] >= 0x20 && p[0] < 0x7f)
		return p[0] == '"' || p[0] == '\\' ? 0 : 1;
	size_t len = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
		     : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
		     : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
						   : 0;
	if (len == 0)
		return 0;
	uint32_t code = p[0] & (0xffU >> (len + 1));
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (p[i] & 0x3f);
	}
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	if (code < least[len] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		return 0;
	if (code < 0xa0 || (code >= 0x200b && code <= 0x200f) ||
	    (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) ||
	    code == 0xfeff)
		return 0;
	return len;
}

bool fvm_quote_needed(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p;) {
		size_t len = utf8_safe(p);
		if (len == 0)
			return true;
		p += len;
	}
	return false;
}

static void add_escaped(struct fvm_buf *ret, unsigned char c)
{
	static const char names[] = "abtnvfr"; /* 7 to 13 */
	if (c >= 7 && c <= 13)
		fvm_buf_printf(ret, "\\%c", names[c - 7]);
	else if (c == '"' || c == '\\')
		fvm_buf_printf(ret, "\\%c", c);
	else
		fvm_buf_printf(ret, "\\%03o", c);
}

void fvm_quote(struct fvm_buf *ret, const char *text)
{
	if (!fvm_quote_needed(text)) {
		fvm_buf_puts(ret, text);
		return;
	}
	fvm_buf_puts(ret, "\"");
	for (const unsigned char *p = (const unsigned char *)text; *p;) {
		size_t len = utf8_safe(p);
		if (len > 0)
			fvm_buf_add(ret, p, len);
		else
			add_escaped(ret, *p);
		p += len ? len : 1;
	}
	fvm_buf_puts(ret, "\"");
}

void fvm_print_safe(FILE *to, const char *text, size_t len)
{
	for (size_t i = 0; i < len;) {
		/* a sequence that is cut off by the end is none */
		unsigned char p[5] = { 0 };
		memcpy(p, text + i, len - i < 4 ? len - i : 4);
		size_t n = *p == '"' || *p == '\\' || *p == '\t' || *p == '\n' ? 1 : utf8_safe(p);
		if (n > 0)
			fwrite(p, 1, n, to);
		else if (*p < 0x20 || *p == 0x7f)
			fprintf(to, "^%c", *p ^ 0x40);
		else
			fprintf(to, "\\%03o", *p);
		i += n ? n : 1;
	}
}

const char *fvm_quote_error(const char *text, char buf[200])
{
	scoped_buf quoted = { 0 };
	fvm_quote(&quoted, text);
	size_t len = quoted.failed ? 0 : quoted.len;
	if (len < 200)
		snprintf(buf, 200, "%s", len ? quoted.data : "?");
	else /* both ends tell most */
		snprintf(buf, 200, "%.60s...%s", quoted.data, quoted.data + len - 130);
	return buf;
}

/* The byte that the escape at @p stands for. Return: how long it is, or -EBADMSG */
static int unescape(const char *p, char *ret)
{
	static const char names[] = "abtnvfr";
	const char *name = p[0] ? strchr(names, p[0]) : NULL;
	if (name) {
		*ret = (char)(7 + (name - names));
		return 1;
	}
	if (p[0] == '"' || p[0] == '\\') {
		*ret = p[0];
		return 1;
	}
	int byte = 0;
	for (int i = 0; i < 3; i++) {
		if (p[i] < '0' || p[i] > '7')
			return -EBADMSG;
		byte = byte * 8 + (p[i] - '0');
	}
	*ret = (char)byte;
	return byte > 0 && byte < 256 ? 3 : -EBADMSG;
}

int fvm_unquote(char *text)
{
	if (text[0] != '"')
		return 0;
	char *to = text;
	for (char *p = text + 1; *p != '"';) {
		if (*p == '\0')
			return -EBADMSG;
		if (*p != '\\') {
			*to++ = *p++;
			continue;
		}
		int n = unescape(p + 1, to);
		if (n < 0)
			return n;
		to++;
		p += 1 + n;
		if (p[0] == '"' && p[1] != '\0')
			return -EBADMSG;
	}
	*to = '\0';
	return 0;
}

/* ---- words in files ---- */

static void add_word(struct fvm_buf *ret, const char *text, char mark)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p > ' ' && *p != 0x7f && *p != (unsigned char)mark)
			fvm_buf_add(ret, p, 1);
		else if (mark == '%')
			fvm_buf_printf(ret, "%%%02X", *p);
		else
			fvm_buf_printf(ret, "\\%03o", *p);
	}
}

void fvm_percent(struct fvm_buf *ret, const char *text)
{
	add_word(ret, text, '%');
}

void fvm_octal(struct fvm_buf *ret, const char *text)
{
	add_word(ret, text, '\\');
}

int fvm_hex(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

int fvm_unpercent(char *text)
{
	char *to = text;
	for (; *text; text++, to++) {
		*to = *text;
		if (*text != '%')
			continue;
		int high = fvm_hex(text[1]), low = high < 0 ? -1 : fvm_hex(text[2]);
		if (low < 0 || (high | low) == 0)
			return -EBADMSG;
		*to = (char)(high << 4 | low);
		text += 2;
	}
	*to = '\0';
	return 0;
}

static bool is_octal(char c, char highest)
{
	return c >= '0' && c <= highest;
}

void fvm_unoctal(char *text)
{
	char *to = text;
	for (; *text; text++, to++) {
		*to = *text;
		if (*text != '\\' || !is_octal(text[1], '3') || !is_octal(text[2], '7') ||
		    !is_octal(text[3], '7') || memcmp(text + 1, "000", 3) == 0)
			continue;
		*to = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
		text += 3;
	}
	*to = '\0';
}
