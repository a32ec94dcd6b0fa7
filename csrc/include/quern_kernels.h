/* The one border between the CUDA kernels and everything else; read by bindgen and by the tests.
 *
 * Plain C: sizes, pointers and status codes. Pointers named in a struct are device memory unless the
 * comment says host. Streams are CUDA streams (cudaStream_t = CUstream) as void*. Every launch is
 * asynchronous, allocates nothing, never waits, can be captured in a CUDA graph, and returns a
 * QuernStatus: shapes, alignments and NULLs are checked before anything is launched.
 * Matrices are row-major; "ld" is the distance between rows in elements. Kernels know pointers and
 * shapes, never models. */
#ifndef QUERN_KERNELS_H
#define QUERN_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QuernStatus {
  QUERN_OK = 0,
  QUERN_BAD_SHAPE = 1,    /* a size is out of the kernel's range */
  QUERN_BAD_POINTER = 2,  /* NULL or less aligned than asked for */
  QUERN_UNSUPPORTED = 3,  /* this device, or this combination of options, has no kernel */
  QUERN_NO_DEVICE = 4,    /* no driver, no device, or the ordinal is too high */
  QUERN_LAUNCH_FAILED = 5 /* CUDA refused the launch; cudaGetLastError has been cleared */
} QuernStatus;

/* A sentence for a status; never NULL, never freed. */
const char *quern_status_message(int32_t status);

/* What launches need to know of a device. Filled once by quern_device_open, then only read. */
typedef struct QuernDevice {
  int32_t ordinal;
  int32_t compute_capability; /* 10 * major + minor: 80, 86, 89, 90 */
  int32_t sm_count;
  int32_t smem_per_block; /* bytes a block may ask for */
  int32_t l2_bytes;
  int32_t clusters[4];    /* clusters of 1, 2, 4, 8 blocks that run at once, one block an SM; 0 below 9.0 */
  int32_t pdl;            /* 1: launches overlap the end of the kernel before them (9.0 and up). Settable. */
  int32_t force_portable; /* 1: use the sm_80 code paths on any device; for tests. Settable. */
} QuernDevice;

/* Makes `ordinal` current, raises the shared-memory limits of all kernels and fills `device` (host).
 * Call once a device and process, before any launch and outside of capture. */
int32_t quern_device_open(int32_t ordinal, QuernDevice *device);

/* ---- int4 linear layers: y = x W, W [K, N] in tiles of 64 n x 128 k (layout: csrc/src/layout.h) ---- */

/* A packed matrix. `tiles` 128-byte aligned, quern_int4_bytes(k, n, group) bytes. */
typedef struct QuernInt4 {
  const void *tiles;
  int32_t k;     /* multiple of group */
  int32_t n;     /* multiple of 8 */
  int32_t group; /* 32, 64 or 128 input features a scale */
  int32_t pair_stride; /* 0: rows in order. P > 0 (multiple of 8, 2P divides n): packed so that output
                          features i and i + P of every run of 2P meet in one thread (gate and up with
                          P = n / 2, rotary pairs with P = head_dim / 2). Results keep the logical order. */
} QuernInt4;

/* Bytes of a packed matrix; 0 if the shape is not supported. */
uint64_t quern_int4_bytes(int32_t k, int32_t n, int32_t group);

/* AutoAWQ "gemm" tensors of one layer: qweight int32 [K, n/8], qzeros int32 [K/group, n/8],
 * scales fp16 [K/group, n]; nibble i of a word is column 8c + {0,2,4,6,1,3,5,7}[i]; w = (q - z) s. */
typedef struct QuernAwqPart {
  const void *qweight;
  const void *qzeros;
  const void *scales;
  int32_t n; /* multiple of 8 */
} QuernAwqPart;

#define QUERN_MAX_PARTS 4

/* Up to four layers that share their input, joined along N in this order (q, k, v; gate, up). */
typedef struct QuernAwqSource {
  QuernAwqPart parts[QUERN_MAX_PARTS];
  int32_t n_parts;
} QuernAwqSource;

/* Writes every byte of packed->tiles; rows and groups beyond N and K become zeros with scale 0. */
int32_t quern_awq_repack(const QuernAwqSource *source, const QuernInt4 *packed, void *stream);

/* ---- made-up weights, for benchmarks without a checkpoint ---- */

typedef enum QuernFillKind {
  QUERN_FILL_BITS = 0, /* int32: element i is draw(seed + i), the low half of splitmix64's output for that state */
  QUERN_FILL_F16 = 1   /* fp16: low + (high - low) (draw(seed + i) >> 8) / 2^24, in float32 */
} QuernFillKind;

typedef struct QuernFill {
  void *data;     /* 4-byte aligned */
  uint64_t bytes; /* whole elements, > 0 */
  uint64_t seed;
  int32_t kind;   /* QuernFillKind */
  float low;      /* of QUERN_FILL_F16 */
  float high;
} QuernFill;

int32_t quern_fill(const QuernDevice *device, const QuernFill *args, void *stream);

/* Runs of bytes that a later kernel will read: runs of `run_bytes` at data, data + stride, ... A kernel that is given one
 * asks for them to be brought to L2 when it has asked for all of its own input, so that memory is not idle while it ends
 * and the next one begins. They are only read, and nothing is lost if they never arrive. sm_90 alone; elsewhere ignored. */
typedef struct QuernPrefetch {
  const void *data;   /* 16-byte aligned; NULL: nothing */
  uint64_t stride;    /* bytes, multiple of 16 */
  uint32_t run_bytes; /* multiple of 16 */
  uint32_t runs;
} QuernPrefetch;

/* About `bytes` of a packed matrix (all of it, if it is smaller), spread over its width: every kernel's blocks find their
 * share of them. */
QuernPrefetch quern_int4_prefetch(const QuernInt4 *weight, uint64_t bytes);

typedef enum QuernEpilogue {
  QUERN_STORE_F16 = 0,   /* out fp16 [M, N] = y + bias, finite values held to +-65504 */
  QUERN_STORE_F32 = 1,   /* out fp32 [M, N] = y + bias */
  QUERN_ADD_F32 = 2,     /* out fp32 [M, N] += y + bias: the residual stream */
  QUERN_SILU_MUL_F16 = 3 /* out fp16 [M, N/2] = silu(y[:, :N/2]) * y[:, N/2:]; needs pair_stride = N/2 */
} QuernEpilogue;

#define QUERN_CARRY_ROWS 64 /* most rows of a product that carries a norm */

/* An RMSNorm carried by the products around it, r' = r / sqrt(mean(r^2) + eps) * weight, instead of a kernel of its own.
 * With QUERN_ADD_F32 and next_squares a product also stores normed = r * weight * scale, where r is the new residual and
 * scale 1/16 of 1 / sqrt(mean + eps) of the norm before, and r's sums of squares. The next product, whose x that is,
 * multiplies its sums by 1 / (scale sqrt(mean(r^2) + eps)). */
typedef struct QuernCarry {
  const float *squares; /* fp32 [M, parts], of the norm that x carries; with next_squares, of the norm before.
                           NULL: nothing is carried */
  float *scales;        /* fp32 [M]: read where x carries a norm, else written */
  float *next_squares;  /* fp32 [M, parts], or NULL */
  const void *weight;   /* fp16 [N], 8-byte aligned; with next_squares */
  void *normed;         /* fp16 [M, N], 8-byte aligned; with next_squares. Finite values held to +-65504 */
  float eps;
} QuernCarry;

/* Bytes of either array of squares, for all M up to QUERN_CARRY_ROWS. */
uint64_t quern_carry_bytes(int32_t columns);

/* y = x W (+ bias): fp16 inputs, float32 sums. */
typedef struct QuernLinear {
  QuernInt4 weight;
  const void *x;    /* fp16 [M, K], 16-byte aligned, row distance ldx */
  const void *bias; /* fp16 [N] in logical order, or NULL */
  void *out;        /* see QuernEpilogue; must not overlap x */
  void *workspace;  /* quern_linear_workspace_bytes; zeroed once, kernels leave it so. NULL if 0 bytes.
                       Launches that may run at the same time need one each. */
  int32_t m;        /* rows */
  int32_t ldx;      /* elements, multiple of 8, >= k */
  int32_t ldo;      /* elements, >= columns of out */
  int32_t epilogue; /* QuernEpilogue */
  QuernPrefetch prefetch;
  QuernCarry carry; /* M <= QUERN_CARRY_ROWS */
} QuernLinear;

/* Decode: M = 1..16. A row's result depends on that row alone, bit for bit, whatever M is. */
int32_t quern_int4_linear_decode(const QuernDevice *device, const QuernLinear *args, void *stream);

/* Bytes of workspace for the largest M of quern_int4_linear_decode. */
uint64_t quern_int4_linear_decode_workspace(const QuernDevice *device, int32_t k, int32_t n);

/* Prefill: M >= 17. The same arguments; weights are scaled in fp16 (as AutoAWQ does), sums are float32. How a sum is
 * cut depends on M: equal launches give equal bits, a row beside other rows may differ in the last ones. */
int32_t quern_int4_linear_prefill(const QuernDevice *device, const QuernLinear *args, void *stream);

/* Bytes of workspace for any shape of quern_int4_linear_prefill. */
uint64_t quern_int4_linear_prefill_workspace(const QuernDevice *device);

/* ---- fp16 output head: logits = x W^T ---- */

typedef struct QuernHead {
  const void *weight; /* fp16 [V, K], 16-byte aligned */
  const void *x;      /* fp16 [M, K], 16-byte aligned, row distance ldx */
  float *logits;      /* fp32 [M, V], row distance ldo */
  int32_t m;          /* rows; every 64 (on sm_90; elsewhere 16, or what shared memory holds) read all weights */
  int32_t k;          /* multiple of 64 */
  int32_t v;
  int32_t ldx;        /* elements, multiple of 8, >= k */
  int32_t ldo;        /* elements, >= v */
} QuernHead;

/* A row's result depends on that row alone, bit for bit, for all M up to 16 and again for all M beyond (below sm_90: for
 * all M). */
int32_t quern_head_decode(const QuernDevice *device, const QuernHead *args, void *stream);

/* ---- dense fp16 layers: y = x W^T (+ bias) ---- */

/* Many rows, on sm_90. With QUERN_SILU_MUL_F16 the first half of W's rows is the gate. */
typedef struct QuernDense {
  const void *weight; /* fp16 [N, K], 16-byte aligned */
  const void *x;      /* fp16 [M, K], 16-byte aligned, row distance ldx */
  const void *bias;   /* fp16 [N], or NULL */
  void *out;          /* see QuernEpilogue; must not overlap x */
  void *workspace;    /* as quern_int4_linear_prefill's, and may be the same */
  int32_t m;          /* rows, >= 17 */
  int32_t k;          /* multiple of 64 */
  int32_t n;          /* multiple of 8; of 16 with QUERN_SILU_MUL_F16 */
  int32_t ldx;        /* elements, multiple of 8, >= k */
  int32_t ldo;        /* elements, >= columns of out */
  int32_t epilogue;   /* QuernEpilogue */
} QuernDense;

/* How a sum is cut depends on M: equal launches give equal bits, a row beside other rows may differ in the last ones. */
int32_t quern_dense_linear(const QuernDevice *device, const QuernDense *args, void *stream);

/* Few rows, and other devices: quern_head_decode, then this. */

/* out = epilogue(sums + bias). With QUERN_SILU_MUL_F16 the first half of the columns is the gate. */
typedef struct QuernDenseOutput {
  const float *sums; /* fp32 [rows, n], row distance ld_sums */
  const void *bias;  /* fp16 [n], or NULL */
  void *out;         /* see QuernEpilogue */
  int32_t rows;
  int32_t n;         /* even with QUERN_SILU_MUL_F16 */
  int32_t ld_sums;
  int32_t ldo;
  int32_t epilogue;  /* QuernEpilogue */
} QuernDenseOutput;

int32_t quern_dense_output(const QuernDevice *device, const QuernDenseOutput *args, void *stream);

/* ---- one step: rows, spans, the paged KV cache ---- */

#define QUERN_KV_BLOCK 32 /* tokens a block */

/* fp16 [layer][block][K|V][kv_head] tiles of 32 tokens x head_dim (inside a tile: csrc/src/kv_layout.h). */
typedef struct QuernKvCache {
  void *data;         /* 128-byte aligned, n_layers times quern_kv_layer_bytes */
  int32_t n_blocks;
  int32_t n_kv_heads;
  int32_t head_dim;   /* 64 or 128 */
} QuernKvCache;

/* Bytes of one layer of the cache; 0 if the shape is not supported. */
uint64_t quern_kv_layer_bytes(int32_t n_blocks, int32_t n_kv_heads, int32_t head_dim);

/* A row is one input token; a span is the rows of one sequence, consecutive and in order. */
typedef struct QuernSpans {
  const int32_t *first_row;    /* [n_spans] */
  const int32_t *n_rows;       /* [n_spans] */
  const int32_t *position;     /* [n_spans] place in its sequence of the first row; < 0: the span is padding */
  const int32_t *block_tables; /* [n_spans, table_stride] block ids, enough for position + n_rows tokens */
  int32_t n_spans;
  int32_t table_stride;
} QuernSpans;

/* residual[r] = table[token], in float32; token = tokens[r], or last_sampled[-1 - tokens[r]] if that is negative. */
typedef struct QuernEmbed {
  const void *table;           /* fp16 [vocab, hidden], 16-byte aligned */
  const int32_t *tokens;       /* [rows] */
  const int32_t *last_sampled; /* [slots]; NULL if no token is negative */
  float *residual;             /* fp32 [rows, hidden], 16-byte aligned */
  uint32_t *counts;            /* NULL, or [count slots, vocab]: see QuernSample */
  const int32_t *count_rows;   /* [rows]: where the token is counted: 2 slot for a prompt's, 2 slot + 1 for a
                                  generated one, -1 nowhere; NULL if counts is */
  int32_t rows;
  int32_t hidden;              /* multiple of 8 */
  int32_t vocab;
} QuernEmbed;

int32_t quern_embed(const QuernDevice *device, const QuernEmbed *args, void *stream);

/* out[i] = x[index[i]]: the rows whose logits are wanted. */
typedef struct QuernGather {
  const void *x;        /* fp16 [., cols], 16-byte aligned */
  const int32_t *index; /* [rows] */
  void *out;            /* fp16 [rows, cols], 16-byte aligned */
  int32_t rows;
  int32_t cols;         /* multiple of 8 */
} QuernGather;

int32_t quern_gather_rows(const QuernDevice *device, const QuernGather *args, void *stream);

/* out[r, c] = x[r, index[c]]: the inputs of a linear layer whose rows have an order of their own. */
typedef struct QuernGatherColumns {
  const void *x;        /* fp16 [rows, ldx] */
  const int32_t *index; /* [cols], each below ldx, 16-byte aligned */
  void *out;            /* fp16 [rows, cols], 16-byte aligned */
  int32_t rows;
  int32_t ldx;
  int32_t cols;         /* multiple of 8 */
} QuernGatherColumns;

int32_t quern_gather_columns(const QuernDevice *device, const QuernGatherColumns *args, void *stream);

/* out = residual / sqrt(mean(residual^2) + eps) * weight. */
typedef struct QuernRmsNorm {
  const float *residual; /* fp32 [rows, hidden], 16-byte aligned */
  const void *weight;    /* fp16 [hidden], 16-byte aligned */
  void *out;             /* fp16 [rows, hidden], 16-byte aligned; finite values held to +-65504 */
  int32_t rows;
  int32_t hidden;        /* multiple of 8, <= 16384 */
  float eps;
  float *squares;        /* NULL, or of a QuernCarry whose norm before this is: rows <= QUERN_CARRY_ROWS */
} QuernRmsNorm;

int32_t quern_rms_norm(const QuernDevice *device, const QuernRmsNorm *args, void *stream);

/* out = silu(gate_up[:, :width]) * gate_up[:, width:], finite values held to +-65504. */
typedef struct QuernSiluMul {
  const void *gate_up; /* fp16 [rows, 2 width], 16-byte aligned */
  void *out;           /* fp16 [rows, width], 16-byte aligned */
  int32_t rows;
  int32_t width;       /* multiple of 8 */
} QuernSiluMul;

int32_t quern_silu_mul(const QuernDevice *device, const QuernSiluMul *args, void *stream);

/* Angles of the rotary embedding, once a step for all layers: angle of pair i at position p is
 * p theta^(-2i / rope_dim) factors[i], computed in float64. */
typedef struct QuernRopeAngles {
  QuernSpans spans;
  const int32_t *row_span; /* [rows] the span of each row */
  const double *theta;     /* [n_spans] rotary base of the sequence */
  const double *factors;   /* [rope_dim / 2] of each pair's frequency; NULL: 1 */
  double scale;            /* of cosines and sines, > 0 */
  float *angles;           /* fp32 [rows, rope_dim / 2] pairs (cos, sin), 8-byte aligned */
  float *query_factors;    /* fp32 [rows]: max(1, ln(p + 1) / ln(logn_seq_length)), or 1 if that is 0 */
  int32_t rows;
  int32_t rope_dim;        /* multiple of 16 */
  int32_t logn_seq_length; /* 0, or >= 2 */
} QuernRopeAngles;

int32_t quern_rope_angles(const QuernDevice *device, const QuernRopeAngles *args, void *stream);

/* What attention reads and writes; heads are laid out q, k, v in a row of qkv. */
typedef struct QuernAttention {
  QuernKvCache cache;
  QuernSpans spans;
  void *qkv;                  /* fp16 [rows, (n_heads + 2 n_kv_heads) head_dim], 16-byte aligned, without bias */
  const void *bias;           /* fp16, a row of qkv, 16-byte aligned, or NULL */
  const float *angles;        /* of quern_rope_angles */
  const float *query_factors; /* likewise */
  void *out;                  /* fp16 [rows, n_heads head_dim], 16-byte aligned */
  int32_t layer;
  int32_t n_heads;            /* multiple of n_kv_heads */
  int32_t rope_dim;           /* multiple of 16, <= head_dim: pairs are (i, i + rope_dim / 2) */
  int32_t window;             /* tokens that a query attends to, its own the last of them; 0: all up to its own */
} QuernAttention;

/* For rows [first_row, first_row + rows): adds the bias, rotates q and k, scales q by its factor, leaves q in qkv and
 * writes k and v to the cache. Rows of padding spans do nothing. `row_span` is indexed by row. */
int32_t quern_rope_store(const QuernDevice *device, const QuernAttention *args, const int32_t *row_span,
                         int32_t first_row, int32_t rows, void *stream);

/* Prefill: causal softmax(q k^T / sqrt(head_dim)) v of all rows of all spans over the whole of their sequences, or the
 * window of them, after quern_rope_store. max_rows: the largest n_rows of a span (what the host knows; rows beyond it are not computed).
 * A row's result depends on its sequence alone, bit for bit, however the prompt was cut into spans. */
int32_t quern_prefill_attention(const QuernDevice *device, const QuernAttention *args, int32_t max_rows, void *stream);

/* What decode attention's host-side functions need to know. */
typedef struct QuernDecodeShape {
  int32_t n_spans;    /* of the launch, padding included */
  int32_t max_tokens; /* the longest that a sequence may be */
  int32_t n_heads;    /* n_heads / n_kv_heads <= 8 */
  int32_t n_kv_heads;
  int32_t head_dim;
  int32_t window;     /* as in QuernAttention; read by quern_decode_plan alone */
} QuernDecodeShape;

/* Decode's list of work, made on the host for a step (the same for all layers of one window) and copied to the device: how
 * each sequence is cut along its tokens depends on its own length, the window, the model, the device and whether n_spans is
 * up to 2, 8, 16 or more.
 * `positions` (host): as in QuernSpans. `plan` (host) has room for quern_decode_plan_ints; on the device it is 32-byte aligned. Returns the number
 * of items, or -1 if the shape is not supported or a sequence is longer than max_tokens. */
int32_t quern_decode_plan(const QuernDevice *device, const QuernDecodeShape *shape, const int32_t *positions,
                          int32_t *plan);
int32_t quern_decode_plan_ints(const QuernDevice *device, const QuernDecodeShape *shape);

/* Bytes of workspace, 256-byte aligned, and of its counters: so many first bytes must be zero once; kernels leave them so.
 * Counters of launches with fewer spans may be any part of those of more. */
uint64_t quern_decode_workspace(const QuernDevice *device, const QuernDecodeShape *shape);
uint64_t quern_decode_counter_bytes(const QuernDecodeShape *shape);

/* Decode: one row a span (n_rows is not read). Takes qkv as the linear layer left it: adds the bias, rotates, writes k
 * and v to the cache and attends, in one launch. The plan was made for the same window. A row's result depends on its sequence alone, bit for bit, within n_spans
 * up to 2, up to 8, up to 16 and beyond. The grid is fixed by n_spans and max_tokens; lengths and work are read from device
 * memory, so a captured launch serves every step.
 * Rows of padding spans are not written. Reads the plan, first_row, block_tables and the cached tokens before the kernel
 * in front of it has ended: they must be complete before that one starts, as they are when an earlier step or a copy at
 * the start of this one wrote them. */
int32_t quern_decode_attention(const QuernDevice *device, const QuernAttention *args, const int32_t *plan,
                               void *workspace, int32_t max_tokens, void *stream);

/* ---- sampling: one launch for a batch ---- */

#define QUERN_MAX_TOP_TOKENS 32
#define QUERN_MAX_BIASES 1024

/* One row's parameters, as the request gave them. */
typedef struct QuernSamplingRow {
  uint64_t seed;
  uint64_t position;        /* of the token to sample: counter of the random numbers */
  float temperature;        /* > 0 */
  float top_p;              /* (0, 1]; 1 is off */
  float typical_p;          /* (0, 1]; 1 is off */
  float repetition_penalty; /* > 0; 1 is off; over every distinct token of the sequence */
  float frequency_penalty;  /* times the count of generated tokens */
  float presence_penalty;   /* once for every distinct generated token */
  int32_t top_k;            /* 0 is off */
  int32_t do_sample;        /* 0: the largest logit after penalties; temperature, top_* and typical_p are not read */
  int32_t top_n_tokens;     /* best tokens to report, 0..QUERN_MAX_TOP_TOKENS */
  int32_t slot;             /* where in last_sampled the token goes; < 0: the row is padding */
  int32_t count_slot;       /* the sequence's row of counts and of biases; < 0: neither penalties nor biases */
  int32_t n_biases;         /* 0..QUERN_MAX_BIASES */
  int32_t mask;             /* 1 + the row of masks that says which tokens may be chosen; 0: all */
  int32_t reserved;
} QuernSamplingRow;

/* Added to a token's logit before anything else. */
typedef struct QuernTokenBias {
  int32_t id;
  float bias;
} QuernTokenBias;

typedef struct QuernTokenLogprob {
  int32_t id;
  float logprob; /* in the distribution that the token was chosen from */
} QuernTokenLogprob;

/* What one row gives. */
typedef struct QuernSampled {
  QuernTokenLogprob token;
  int32_t not_finite; /* 1: the logits hold a NaN or an infinity; the token is then 0 and means nothing */
  int32_t n_top;
  QuernTokenLogprob top[QUERN_MAX_TOP_TOKENS]; /* n_top best, best first, equals by lowest id */
} QuernSampled;

typedef struct QuernSample {
  void *logits;                 /* [rows, ld], 16-byte aligned; fp32 logits are overwritten */
  const QuernSamplingRow *row;  /* [rows] */
  const uint32_t *counts;       /* [count slots, vocab]: bit 31: the token is in the prompt; the rest: how often it was
                                   generated. NULL if no row has penalties */
  const QuernTokenBias *biases; /* [count slots, QUERN_MAX_BIASES], no token twice in a row. NULL if no row has biases */
  const uint32_t *masks;        /* [mask rows, ceil(vocab / 32)]: bit i % 32 of word i / 32 allows token i; at least one
                                   of a row is set. NULL if no row has a mask */
  int32_t *last_sampled;        /* [slots] */
  QuernSampled *out;            /* [rows] */
  float *scratch;               /* quern_sample_scratch bytes, 16-byte aligned; NULL if 0 */
  int32_t logits_are_f16;       /* fp16, else fp32 */
  int32_t rows;
  int32_t vocab;
  int32_t ld;                   /* elements, >= vocab, multiple of 8 */
} QuernSample;

/* Bytes of scratch for `rows` rows. */
uint64_t quern_sample_scratch(const QuernDevice *device, int32_t rows, int32_t vocab, int32_t logits_are_f16);

/* Chooses a token for every row: biases, mask, penalties, temperature, top-k, top-p, typical-p, draw, in that order. Sums are of
 * integers, so equal logits and parameters give equal tokens on every device and in any company. */
int32_t quern_sample(const QuernDevice *device, const QuernSample *args, void *stream);

/* What one row gives: log-probabilities under the model's own logits, log(softmax(logits)). */
typedef struct QuernScored {
  float logprob;          /* of the given token; NaN if the row holds a NaN or an infinity */
  QuernTokenLogprob best; /* the likeliest token, the lowest id among equals; means nothing if logprob is NaN */
} QuernScored;

/* A row's result depends on its logits alone, bit for bit. */
typedef struct QuernScore {
  const float *logits; /* [rows, ld], 16-byte aligned */
  const int32_t *ids;  /* [rows], each below vocab */
  QuernScored *out;    /* [rows] */
  int32_t rows;
  int32_t vocab;
  int32_t ld;          /* elements, >= vocab, multiple of 4 */
} QuernScore;

int32_t quern_score(const QuernDevice *device, const QuernScore *args, void *stream);

#ifdef __cplusplus
}
#endif
#endif /* QUERN_KERNELS_H */
