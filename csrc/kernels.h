// What an instruction set implements, and the few lines that all of them share.
// A file that is compiled for more than baseline x86-64 includes nothing else: an inline function of a standard
// header, compiled there, could be the copy that the linker keeps for every processor.
#pragma once
#include "submodel.h"

// x as the products need it, padded with zeros to whole words of 64 columns.
struct Activations {
  int64_t count, words;
  const float* f32;      // [count][words * 64], rounded to bfloat16 for the bf16 formats
  const uint16_t* bf16;  // the same as bfloat16
  const int8_t* q;       // [count][words * 64]: x / scale of each lane of 4 columns, rounded
  const float* scale;    // [count][words][16]
  const int32_t* init;   // [count][words][16]: -offset times the lane's sum of q
  const uint16_t* tiles; // bfloat16 [ceil(count / 16)][words * 2][16][16][2]: 16 rows of x, pairs of columns together
};

struct Kernels {
  const char* name;
  // one row of x [words * 64] -> q, scale, init
  void (*quantise)(const float* x, int64_t words, int32_t offset, int8_t* q, float* scale, int32_t* init);
  // y[b * stride + row] for the rows [first, last), by format; first is a multiple of SM_BLOCK
  void (*product[SM_FORMATS])(const sm_matrix& m, const Activations& x, int64_t first, int64_t last, float* y,
                              int64_t stride);
  void (*pack[SM_FORMATS])(const sm_matrix& m, const uint16_t* dense, int64_t first, int64_t last);
  void (*unpack[SM_FORMATS])(const sm_matrix& m, int64_t first, int64_t last, uint16_t* out);
  // product of any format for several rows of x, or null; scratch has room for scratch_of(m) numbers
  void (*several)(const Kernels& kernels, const sm_matrix& m, const Activations& x, int64_t first, int64_t last,
                  float* y, int64_t stride, uint16_t* scratch);
  // of dense weights and several rows of x: x [count][cols] -> its columns as `dense` reads them, padded with zeros to
  // 16; y[b * stride + row]
  void (*arrange)(const uint16_t* x, int64_t count, int64_t cols, float* out);
  void (*dense)(const uint16_t* weights, int64_t rows, int64_t cols, const float* x, int64_t count, float* y,
                int64_t stride);
  // of plain.h
  void (*activate)(float* gate, const float* up, int64_t count, int64_t gelu);
  void (*attend)(const float* q, const uint16_t* keys, const uint16_t* values, int64_t length, int64_t size,
                 int64_t group, float cap, float* scores, float* row, float* out);
  void (*cap)(float* x, int64_t count, float cap);
  void (*round)(const float* x, const uint16_t* bias, int64_t count, uint16_t* y);
  void (*exchange)(const float* w, const float* gram, const float* diagonal, int64_t cols, int64_t group,
                   int64_t rounds, float least, float* pull, uint8_t* keep, float* room);
  void (*move)(const sm_move& m, int64_t row, void* room);  // room [9 * cols]
  float (*divergence)(const void* dense, const void* pruned, int64_t wide, int64_t count, float weight, void* slope);
  // Of inputs in tiles (see sm_gram), sums [cols][cols] of the columns [first, last) with those up to `last`; or null.
  void (*gram)(const uint16_t* across, const uint16_t* pairs, int64_t steps, int64_t cols, int64_t first, int64_t last,
               float* sums);
};

extern const Kernels reference_kernels;
// what `pack` does, the scales being those of another matrix
void pack_on(const sm_matrix& m, const uint16_t* dense, const uint16_t* grid, int64_t first, int64_t last);
#if defined(__aarch64__)
extern const Kernels neon_kernels;
#endif
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
void fma_arrange(const uint16_t* x, int64_t count, int64_t cols, float* out);
void fma_dense(const uint16_t* weights, int64_t rows, int64_t cols, const float* x, int64_t count, float* y,
               int64_t stride);
void amx_gram(const uint16_t* across, const uint16_t* pairs, int64_t steps, int64_t cols, int64_t first, int64_t last,
              float* sums);
void amx_product(const Kernels& kernels, const sm_matrix& m, const Activations& x, int64_t first, int64_t last,
                 float* y, int64_t stride, uint16_t* scratch);
#endif

namespace {

constexpr float LEAST = 1e-30f;  // activations that are all smaller count as zeros

inline int64_t words_of(const sm_matrix& m) { return (m.cols + 63) / 64; }

inline int64_t scratch_of(const sm_matrix& m) { return SM_BLOCK * m.cols + 96; }  // a tile reads on, and alignment

// What a packed format adds here and in the loops of reference.cpp; other sets fall back on these.

// bits that a product reads for each weight of the matrix, about, at half of them kept
constexpr int64_t read_bits[SM_FORMATS] = {16, 9, 9, 6, 4, 17, 10};

// bytes of a row whose halves keep so many weights
inline int64_t row_bytes(int64_t format, int64_t left, int64_t right) {
  if (format == SM_INT4) return left > right ? left : right;
  return (left + right) * (format == SM_BF16 ? 2 : 1);
}

inline int32_t offset_of(int64_t format) { return format == SM_INT4 ? 8 : 128; }

inline bool is_bf16(int64_t format) {
  return format == SM_DENSE_BF16 || format == SM_BF16 || format == SM_SHARED_BF16;
}

// where the values of a row begin that is a multiple of SM_BLOCK
inline const uint8_t* values_of(const sm_matrix& m, int64_t row) {
  return m.values + (m.starts ? m.starts[row / SM_BLOCK] : row * (is_bf16(m.format) ? 2 * m.cols : 64 * words_of(m)));
}

inline float bits_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t float_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

inline float from_bf16(uint16_t x) { return bits_float(uint32_t(x) << 16); }

// of either kind of number
inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) { return from_bf16(x); }

// to nearest, ties to even; numbers only
inline uint16_t to_bf16(float x) {
  uint32_t bits = float_bits(x);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline uint16_t load16(const void* p) {
  uint16_t x;
  __builtin_memcpy(&x, p, 2);
  return x;
}

inline uint64_t load64(const void* p) {
  uint64_t x;
  __builtin_memcpy(&x, p, 8);
  return x;
}

// The scale of a group of 64 dense weights: rounded up for 8 bits, so that 127 steps reach the largest;
// for 4 bits the largest is -8 steps.
inline uint16_t scale_of(int64_t format, float least, float most) {
  if (format == SM_INT4) return to_bf16((most >= -least ? most : least) / -8.0f);
  float largest = most >= -least ? most : -least;
  return uint16_t((float_bits(largest / 127.0f) + 0xffff) >> 16);
}

inline float inverse(uint16_t scale) { return scale & 0x7fff ? 1.0f / from_bf16(scale) : 0.0f; }

}  // namespace
