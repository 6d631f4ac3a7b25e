// The whole C interface: packed matrices, their products, packing and unpacking, one decoding step of a model.
// Layouts are specified in docs/reference/format.md. Every pointer is memory of the caller, which nothing here keeps.
#pragma once
#include <stdint.h>

extern "C" {

enum sm_format { SM_DENSE_BF16, SM_DENSE_INT8, SM_BF16, SM_INT8, SM_INT4, SM_SHARED_BF16, SM_SHARED_INT8, SM_FORMATS };

enum { SM_BLOCK = 16, SM_SLACK = 64 };  // rows between two entries of `starts`; readable bytes after the last value

// words = ceil(cols / 64)
struct sm_matrix {
  int64_t format, rows, cols;
  const uint64_t* mask;    // [rows][words], bit j of word w = column 64 w + j is kept; none for the dense formats
  const uint8_t* values;   // survivors row after row, then SM_SLACK bytes; for dense and shared formats, all
  const int64_t* starts;   // [ceil(rows / SM_BLOCK) + 1] byte offsets into values; only where survivors alone are stored
  const uint16_t* scales;  // bfloat16 [rows][words]; none for the bf16 formats
};

// "reference", "avx2", "avx512", "amx" (avx512 with tiles for several rows of x) or "neon": what SUBMODEL_KERNELS names,
// else the best this processor has.
const char* sm_kernels();

// Fills starts from the mask; returns the bytes of all values without slack, or -1 if a bit past cols is set.
int64_t sm_starts(int64_t format, const uint64_t* mask, int64_t rows, int64_t cols, int64_t* starts);

// Packs dense bfloat16 [rows][cols] by m->mask into m->values and m->scales, which are written to; not for the shared
// formats, whose values are those of a dense one. Scales are those of `grid` [rows][cols], or of `dense` if it is null.
void sm_pack(const sm_matrix* m, const uint16_t* dense, const uint16_t* grid, int64_t threads);

// Rows [first, last) as bfloat16 [last - first][cols], dropped weights 0.
void sm_unpack(const sm_matrix* m, int64_t first, int64_t last, uint16_t* out, int64_t threads);

// y [count][rows] = x [count][cols] times the matrix transposed, plus bias [rows] if any; all bfloat16.
void sm_matmul(const sm_matrix* m, const uint16_t* x, int64_t count, const uint16_t* bias, uint16_t* y,
               int64_t threads);

// y [count][rows] = x [count][cols] times weights [rows][cols] transposed, plus bias [rows] if any; all bfloat16. For
// weights that are nobody's packed matrix: nothing past their end is read. Each row of y depends on its own row of x alone.
void sm_dense(const uint16_t* weights, int64_t rows, int64_t cols, const uint16_t* x, int64_t count,
              const uint16_t* bias, uint16_t* y, int64_t threads);

// Adds sum over tokens of x x^T to sums [cols][cols], of every `panel` columns (a multiple of 32) with those up to their
// end alone: on and below the diagonal, and what is above it inside a panel. x [tokens][cols] is bfloat16, sums and
// products in them are float32. Returns 0 and does nothing on what has no such products (all but AVX-512 and AMX).
int64_t sm_gram(const uint16_t* x, int64_t tokens, int64_t cols, int64_t panel, float* sums, int64_t threads);

// Exchanges kept and dropped weights of each row while that lowers its error; see csrc/exchange.h.
//   w, pull, keep [rows][cols]; gram [cols][cols]; diagonal [cols]. `pull` and `keep` are overwritten.
void sm_exchange(const float* w, const float* gram, const float* diagonal, int64_t rows, int64_t cols, int64_t group,
                 int64_t rounds, float least, float* pull, uint8_t* keep, int64_t threads);

// A matrix whose mask moves along a gradient. Gradient, weights and masked [rows][cols] are float32 if `wide`, else
// bfloat16; scores [rows][cols]; square [rows].
struct sm_move {
  int64_t rows, cols, wide;
  int64_t group, removed;   // weights that go of every so many columns; 0 if of a row
  float rate, memory, seen; // square takes 1 - memory of the new mean square; 1 - memory^steps
  const int64_t* counts;    // of a row, [rows]
  const void *gradient, *weights;
  float *scores, *square;   // overwritten
  void* masked;             // written: the weights, 0 where dropped
};

// One step of it; see csrc/move.h.
void sm_move_scores(const sm_move* m, int64_t threads);

// KL(dense || pruned) of logits, in nats, and weights [rows] times its gradient by the second: found [rows] and slopes
// are written. Logits and slopes [rows][cols] are float32 if `wide`, else bfloat16; see csrc/divergence.h.
void sm_divergence(const void* dense, const void* pruned, int64_t wide, int64_t rows, int64_t cols,
                   const float* weights, void* slopes, float* found, int64_t threads);

// One linear layer; no bias if null.
struct sm_linear {
  const sm_matrix* matrix;
  const float* bias;  // [rows]
};

// A block of the LLaMA kind: x += o(attention(norm(x))), x += down(activation(gate) * up of norm(x)).
struct sm_block {
  sm_linear q, k, v, o, gate, up, down;
  const float *attention_norm, *mlp_norm;          // [hidden]
  const float *q_norm, *k_norm;                    // [head_size], of each head, or null
  const float *attention_out_norm, *mlp_out_norm;  // [hidden], of what is added to x, or null
  int64_t window;                                  // columns that are attended to, 0 = all
  int64_t rotation;                                // which of the rotations
};

// Rows of a matrix: all of them, or runs of rows that follow each other, of a matrix that stores all its weights.
struct sm_rows {
  const sm_matrix* matrix;
  const int64_t* runs;   // [count][3]: first row, row after the last, and where their products go; null = all rows
  int64_t count, total;  // runs; rows of all of them
};

struct sm_model {
  int64_t blocks, hidden, heads, key_heads, head_size, intermediate, gelu;
  int64_t alone;  // every sequence gets the very sums that it gets by itself, which takes the tiles away
  float epsilon, scale;            // of the norms; of the products of queries and keys
  float attention_cap, logit_cap;  // scores and logits become cap * tanh(one / cap); 0 = they stay
  const sm_block* block;
  const float* norm;  // [hidden]
  sm_rows head;
};

// One token of each of `count` sequences.
//   x [count][hidden]: their embeddings; overwritten.
//   cosine, sine [rotations][count][head_size]: of each rotation at their positions.
//   keys, values [blocks]: bfloat16 [rows >= count][key_heads][columns][head_size]; sequence r has its tokens in the
//   columns [starts[r], end), and column `end` is written.
//   logits [count][head's rows].
//   more, more_logits [count]: rows of the head that a sequence has beside, or null, and where its products go; both may
//   be null.
void sm_step(const sm_model* m, int64_t count, float* x, const float* cosine, const float* sine, uint16_t* const* keys,
             uint16_t* const* values, int64_t columns, const int64_t* starts, int64_t end, float* logits,
             const sm_matrix* const* more, float* const* more_logits, int64_t threads);

}
