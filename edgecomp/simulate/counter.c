/* Counts the aarch64 instructions that a program executes under QEMU's user mode emulation: a TCG plugin.
 *
 *     cc -O2 -shared -fPIC -DPLUGIN_API=1 -o counter.so counter.c
 *     EDGECOMP_COUNTS=counts.txt qemu-aarch64 -plugin counter.so program
 *
 * The program sets marks with the system call getpriority(PRIO_PROCESS, 0), which nothing else calls. Each writes one line:
 *
 *     instructions dot_product int8_matrix half_precision
 *
 * as executed so far by all threads together. Classes are told by the opcodes of the Arm Architecture Reference Manual.
 *
 * QEMU's header is not part of most distributions, so the few declarations that are used stand here. PLUGIN_API is the
 * version of QEMU's plugin interface: 1 before QEMU 9.0, 2 in 9.0, 3 from 9.1 on, where an instruction's bytes are copied.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned int, void *), int flags, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned int, int64_t, uint64_t, uint64_t,
                                                 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
#if PLUGIN_API >= 3
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#else
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#endif

int qemu_plugin_version = PLUGIN_API;

enum { INSTRUCTIONS, DOT_PRODUCT, INT8_MATRIX, HALF_PRECISION, CLASSES };
enum { GETPRIORITY = 141, PRIO_PROCESS = 0, NO_REGISTERS = 0, THREADS = 256 };

/* One row a thread: they count at the same time. */
static struct { uint64_t of[CLASSES]; uint64_t apart[8]; } counts[THREADS];
static FILE *output;

struct pattern { uint32_t mask, value; int class; };

static const struct pattern patterns[] = {
    {0xbfe0fc00, 0x0e809400, DOT_PRODUCT},    /* SDOT, vectors */
    {0xbfe0fc00, 0x2e809400, DOT_PRODUCT},    /* UDOT, vectors */
    {0xbfe0fc00, 0x0e809c00, DOT_PRODUCT},    /* USDOT, vectors */
    {0xbfc0f400, 0x0f80e000, DOT_PRODUCT},    /* SDOT, by element */
    {0xbfc0f400, 0x2f80e000, DOT_PRODUCT},    /* UDOT, by element */
    {0xbfc0f400, 0x0f80f000, DOT_PRODUCT},    /* USDOT, by element */
    {0xbfc0f400, 0x0f00f000, DOT_PRODUCT},    /* SUDOT, by element */
    {0xffe0fc00, 0x4e80a400, INT8_MATRIX},    /* SMMLA */
    {0xffe0fc00, 0x6e80a400, INT8_MATRIX},    /* UMMLA */
    {0xffe0fc00, 0x4e80ac00, INT8_MATRIX},    /* USMMLA */
    {0x9f60c400, 0x0e400400, HALF_PRECISION}, /* Three registers of halves: FMLA, FADD, FMUL, FMAX, FCMGT, ... */
    {0xdf60c400, 0x5e400400, HALF_PRECISION}, /* The same of scalars */
    {0x9f7e0c00, 0x0e780800, HALF_PRECISION}, /* Two registers of halves: FABS, FCVTZS, FRINTN, FSQRT, ... */
    {0xdf7e0c00, 0x5e780800, HALF_PRECISION}, /* The same of scalars */
    {0xbfc0b400, 0x0f001000, HALF_PRECISION}, /* FMLA, FMLS by element; bit 14 tells which */
    {0xffc0b400, 0x5f001000, HALF_PRECISION}, /* The same of scalars */
    {0x9fc0f400, 0x0f009000, HALF_PRECISION}, /* FMUL, FMULX by element */
    {0xdfc0f400, 0x5f009000, HALF_PRECISION}, /* The same of scalars */
    {0xbf7ffc00, 0x0e30c800, HALF_PRECISION}, /* FMAXNMV, FMINNMV */
    {0xbf7ffc00, 0x0e30f800, HALF_PRECISION}, /* FMAXV, FMINV */
    {0xff7e0c00, 0x5e300800, HALF_PRECISION}, /* Pairwise into a scalar: FADDP, FMAXP, ... */
    {0xffe00c00, 0x1ee00800, HALF_PRECISION}, /* Scalars: FADD, FMUL, FMAX, ... */
    {0xffc00000, 0x1fc00000, HALF_PRECISION}, /* Scalars: FMADD, FMSUB, FNMADD, FNMSUB */
};

static int class_of(uint32_t word)
{
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        if ((word & patterns[i].mask) == patterns[i].value) {
            return patterns[i].class;
        }
    }
    return INSTRUCTIONS;
}

static uint32_t word_of(const struct qemu_plugin_insn *insn)
{
    uint32_t word = 0;
#if PLUGIN_API >= 3
    qemu_plugin_insn_data(insn, &word, sizeof word);
#else
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
#endif
    return word;
}

static void executed(unsigned int thread, void *data)
{
    const uint32_t *adds = data;
    uint64_t *sums = counts[thread % THREADS].of;
    for (int i = 0; i < CLASSES; i++) {
        sums[i] += adds[i];
    }
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    uint32_t *adds = calloc(CLASSES, sizeof *adds); /* Lives as long as the block, which is for good. */
    size_t length = qemu_plugin_tb_n_insns(block);
    if (adds == NULL) {
        abort();
    }
    adds[INSTRUCTIONS] = length;
    for (size_t i = 0; i < length; i++) {
        int class = class_of(word_of(qemu_plugin_tb_get_insn(block, i)));
        if (class != INSTRUCTIONS) {
            adds[class]++;
        }
    }
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, adds);
}

static void called(plugin_id id, unsigned int thread, int64_t number, uint64_t which, uint64_t who, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    uint64_t sums[CLASSES] = {0};
    if (number != GETPRIORITY || which != PRIO_PROCESS || who != 0) {
        return;
    }
    for (int i = 0; i < THREADS; i++) {
        for (int j = 0; j < CLASSES; j++) {
            sums[j] += counts[i].of[j];
        }
    }
    for (int j = 0; j < CLASSES; j++) {
        fprintf(output, "%llu%c", (unsigned long long)sums[j], j + 1 < CLASSES ? ' ' : '\n');
    }
    fflush(output);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    const char *path = getenv("EDGECOMP_COUNTS");
    output = path == NULL ? NULL : fopen(path, "w");
    if (output == NULL) {
        fprintf(stderr, "EDGECOMP_COUNTS names no file that can be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
