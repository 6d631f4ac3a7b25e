// AVX-512 with VNNI, BF16 and VBMI2: a mask word is an expand instruction's mask register, so that 64 (8-bit) or 32
// (16-bit) weights of a row come out of the packed survivors in one instruction.
//
// 8- and 4-bit values are stored as unsigned numbers around an offset; a dropped weight expands to the offset itself,
// and the accumulator starts at minus the offset's share, so that the correction costs nothing. Compression goes
// through a register: to memory it is many times slower on some processors.
#include <immintrin.h>

#include "kernels.h"
#include "divergence.h"
#include "exchange.h"
#include "move.h"
#include "plain.h"
#include "rows.h"

namespace {

constexpr int AHEAD = 4096;  // bytes of the value stream fetched ahead
constexpr int TILE = 8;      // rows of activations a pass over a row of weights

inline __m512i load512(const void* p) { return _mm512_loadu_si512(p); }
inline void fetch(const void* p) { _mm_prefetch(static_cast<const char*>(p) + AHEAD, _MM_HINT_T0); }
inline __mmask64 kept(int64_t columns) { return columns >= 64 ? ~0ull : (1ull << columns) - 1; }
inline __m512 floats(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

void quantise(const float* x, int64_t words, int32_t offset, int8_t* q, float* scale, int32_t* init) {
  const __m512 steps = _mm512_set1_ps(127.0f);
  const __m512i ones = _mm512_set1_epi8(1), weight = _mm512_set1_epi32(-offset);
  for (int64_t w = 0; w < words; w++, x += 64, q += 64, scale += 16, init += 16) {
    for (int part = 0; part < 4; part++) {
      __m512 v = _mm512_loadu_ps(x + 16 * part);
      __m512 a = _mm512_abs_ps(v);
      a = _mm512_max_ps(a, _mm512_permute_ps(a, 0b10110001));
      a = _mm512_max_ps(a, _mm512_permute_ps(a, 0b01001110));
      __mmask16 nonzero = _mm512_cmp_ps_mask(a, _mm512_set1_ps(LEAST), _CMP_GT_OQ);
      __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_maskz_div_ps(nonzero, steps, a)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * part), _mm512_cvtsepi32_epi8(rounded));
      __m512 lanes = _mm512_maskz_compress_ps(0x1111, _mm512_div_ps(a, steps));
      _mm_storeu_ps(scale + 4 * part, _mm512_castps512_ps128(lanes));
    }
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, load512(q));
    _mm512_storeu_si512(init, _mm512_mullo_epi32(sums, weight));
  }
}

template <template <int> class Row>
constexpr auto product = by_rows<Row, TILE>;

// the sum of each of N vectors
template <int N>
inline void finish(const __m512* sum, float* y, int64_t stride) {
  for (int b = 0; b < N; b++) y[b * stride] = _mm512_reduce_add_ps(sum[b]);
}

// One word of 8-bit weights, offset and all, times N rows of activations.
template <int N>
inline void add_word(__m512* sum, __m512i weights, uint16_t scale, const Activations& x, int64_t b, int64_t w) {
  const __m512 s = _mm512_set1_ps(from_bf16(scale));
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) {
    int64_t at = (b + i) * x.words + w;
    __m512i dot = _mm512_dpbusd_epi32(load512(x.init + 16 * at), weights, load512(x.q + 64 * at));
    sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(s, _mm512_loadu_ps(x.scale + 16 * at)), sum[i]);
  }
}

template <int N>
inline void add_half(__m512* sum, __m512i weights, const Activations& x, int64_t b, int64_t column) {
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) {
    __m512i v = load512(x.bf16 + (b + i) * x.words * 64 + column);
    sum[i] = _mm512_dpbf16_ps(sum[i], reinterpret_cast<__m512bh>(weights), reinterpret_cast<__m512bh>(v));
  }
}

template <int N>
struct DenseBf16 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t, int64_t b, const uint8_t* p, float* y,
                            int64_t stride) {
    __m512 even[N] = {}, odd[N] = {};
    int64_t c = 0;
    for (; c + 64 <= m.cols; c += 64, p += 128) {
      fetch(p);
      fetch(p + 64);
      add_half<N>(even, load512(p), x, b, c);
      add_half<N>(odd, load512(p + 64), x, b, c + 32);
    }
    for (; c < m.cols; c += 32) {
      int64_t left = m.cols - c < 32 ? m.cols - c : 32;
      // the sums that the packed kernel makes, in its order: zeros in place give the very same result
      add_half<N>(c % 64 ? odd : even, _mm512_maskz_loadu_epi16(__mmask32(kept(left)), p), x, b, c);
      p += 2 * left;
    }
    for (int i = 0; i < N; i++) even[i] = _mm512_add_ps(even[i], odd[i]);
    finish<N>(even, y, stride);
    return p;
  }
};

template <int N>
struct SparseBf16 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m512 even[N] = {}, odd[N] = {};
    const uint64_t* mask = m.mask + row * x.words;
    for (int64_t w = 0; w < x.words; w++) {
      uint64_t bits = load64(mask + w);
      fetch(p);
      const uint8_t* q = p + 2 * _mm_popcnt_u32(uint32_t(bits));
      add_half<N>(even, _mm512_maskz_expand_epi16(__mmask32(bits), load512(p)), x, b, 64 * w);
      add_half<N>(odd, _mm512_maskz_expand_epi16(__mmask32(bits >> 32), load512(q)), x, b, 64 * w + 32);
      p += 2 * _mm_popcnt_u64(bits);
    }
    for (int i = 0; i < N; i++) even[i] = _mm512_add_ps(even[i], odd[i]);
    finish<N>(even, y, stride);
    return p;
  }
};

// The mask is the load's mask register: what it drops counts as zero.
template <int N>
struct SharedBf16 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m512 even[N] = {}, odd[N] = {};
    const uint64_t* mask = m.mask + row * x.words;
    for (int64_t w = 0; w < x.words; w++, p += 128) {
      const uint64_t bits = load64(mask + w);
      fetch(p);
      fetch(p + 64);
      add_half<N>(even, _mm512_maskz_loadu_epi16(__mmask32(bits), p), x, b, 64 * w);
      add_half<N>(odd, _mm512_maskz_loadu_epi16(__mmask32(bits >> 32), p + 64), x, b, 64 * w + 32);
    }
    for (int i = 0; i < N; i++) even[i] = _mm512_add_ps(even[i], odd[i]);
    finish<N>(even, y, stride);
    return p - 2 * (64 * x.words - m.cols);
  }
};

template <int N>
struct SharedInt8 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    const __m512i none = _mm512_set1_epi8(-128);
    __m512 sum[N] = {};
    const uint64_t* mask = m.mask + row * x.words;
    const uint16_t* scales = m.scales + row * x.words;
    for (int64_t w = 0; w < x.words; w++, p += 64) {
      fetch(p);
      add_word<N>(sum, _mm512_mask_loadu_epi8(none, load64(mask + w), p), scales[w], x, b, w);
    }
    finish<N>(sum, y, stride);
    return p;
  }
};

template <int N>
struct DenseInt8 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m512 sum[N] = {};
    const uint16_t* scales = m.scales + row * x.words;
    for (int64_t w = 0; w < x.words; w++, p += 64) {
      fetch(p);
      add_word<N>(sum, load512(p), scales[w], x, b, w);
    }
    finish<N>(sum, y, stride);
    return p;
  }
};

template <int N>
struct SparseInt8 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    const __m512i none = _mm512_set1_epi8(-128);
    __m512 sum[N] = {};
    const uint64_t* mask = m.mask + row * x.words;
    const uint16_t* scales = m.scales + row * x.words;
    for (int64_t w = 0; w < x.words; w++) {
      uint64_t bits = load64(mask + w);
      fetch(p);
      add_word<N>(sum, _mm512_mask_expand_epi8(none, bits, load512(p)), scales[w], x, b, w);
      p += _mm_popcnt_u64(bits);
    }
    finish<N>(sum, y, stride);
    return p;
  }
};

template <int N>
struct SparseInt4 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    const __m512i none = _mm512_set1_epi8(8), low = _mm512_set1_epi8(15);
    __m512 sum[N] = {};
    const uint64_t* mask = m.mask + row * x.words;
    const uint16_t* scales = m.scales + row * x.words;
    const int64_t half = (x.words + 1) / 2;
    const uint8_t *left = p, *right = p;
    for (int64_t w = 0; w < half; w++) {
      uint64_t bits = load64(mask + w);
      fetch(left);
      __m512i nibbles = _mm512_and_si512(load512(left), low);
      add_word<N>(sum, _mm512_mask_expand_epi8(none, bits, nibbles), scales[w], x, b, w);
      left += _mm_popcnt_u64(bits);
      if (half + w < x.words) {
        bits = load64(mask + half + w);
        nibbles = _mm512_and_si512(_mm512_srli_epi16(load512(right), 4), low);
        add_word<N>(sum, _mm512_mask_expand_epi8(none, bits, nibbles), scales[half + w], x, b, half + w);
        right += _mm_popcnt_u64(bits);
      }
    }
    finish<N>(sum, y, stride);
    return left > right ? left : right;
  }
};

// 64 dense weights -> numbers around the offset, and their scale
inline __m512i steps_of(int64_t format, const uint16_t* weights, int64_t columns, uint16_t* scale) {
  __m512 v[4];
  __m512 most = _mm512_setzero_ps(), least = _mm512_setzero_ps();
  for (int i = 0; i < 4; i++) {
    int64_t left = columns - 16 * i;
    __mmask16 here = __mmask16(left <= 0 ? 0 : kept(left));
    v[i] = floats(_mm256_maskz_loadu_epi16(here, weights + 16 * i));
    most = _mm512_max_ps(most, v[i]);
    least = _mm512_min_ps(least, v[i]);
  }
  *scale = scale_of(format, _mm512_reduce_min_ps(least), _mm512_reduce_max_ps(most));
  const __m512 up = _mm512_set1_ps(inverse(*scale));
  __m128i bytes[4];
  for (int i = 0; i < 4; i++) {
    __m512i steps = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], up));
    if (format == SM_INT4)
      steps = _mm512_min_epi32(_mm512_max_epi32(steps, _mm512_set1_epi32(-8)), _mm512_set1_epi32(7));
    bytes[i] = _mm512_cvtsepi32_epi8(steps);
  }
  __m512i all = _mm512_castsi128_si512(bytes[0]);
  all = _mm512_inserti32x4(all, bytes[1], 1);
  all = _mm512_inserti32x4(all, bytes[2], 2);
  all = _mm512_inserti32x4(all, bytes[3], 3);
  return _mm512_add_epi8(all, _mm512_set1_epi8(int8_t(offset_of(format))));
}

// Whole registers are stored, beyond the end of what they hold, except in the last row: the next may be another's.
void pack(const sm_matrix& m, const uint16_t* dense, int64_t first, int64_t last) {
  const int64_t words = words_of(m), half = (words + 1) / 2;
  uint8_t* p = const_cast<uint8_t*>(values_of(m, first));
  uint16_t* scales = const_cast<uint16_t*>(m.scales);
  for (int64_t row = first; row < last; row++) {
    uint8_t *left = p, *right = p;
    if (m.format == SM_INT4) {
      int64_t l = 0, r = 0;
      for (int64_t w = 0; w < words; w++) (w < half ? l : r) += _mm_popcnt_u64(load64(m.mask + row * words + w));
      __builtin_memset(p, 0, size_t(l > r ? l : r));
    }
    for (int64_t w = 0; w < words; w++) {
      const uint16_t* weights = dense + row * m.cols + 64 * w;
      int64_t columns = m.cols - 64 * w;
      uint64_t bits = m.mask ? load64(m.mask + row * words + w) : ~0ull;
      int64_t count = _mm_popcnt_u64(bits);
      if (m.format == SM_BF16) {
        for (int part = 0; part < 2; part++) {
          uint32_t here = uint32_t(bits >> (32 * part));
          int64_t there = columns - 32 * part;
          __mmask32 readable = there <= 0 ? 0 : __mmask32(kept(there));
          __m512i v = _mm512_maskz_compress_epi16(here, _mm512_maskz_loadu_epi16(readable, weights + 32 * part));
          int n = _mm_popcnt_u32(here);
          if (row + 1 < last) _mm512_storeu_si512(p, v);
          else _mm512_mask_storeu_epi16(p, __mmask32(kept(n)), v);
          p += 2 * n;
        }
        continue;
      }
      __m512i v = _mm512_maskz_compress_epi8(bits, steps_of(m.format, weights, columns, scales + row * words + w));
      if (m.format == SM_INT4) {  // both halves of a row write to the same bytes
        uint8_t*& at = w < half ? left : right;
        __mmask64 here = kept(count);
        if (w >= half) v = _mm512_slli_epi16(v, 4);
        _mm512_mask_storeu_epi8(at, here, _mm512_or_si512(v, _mm512_maskz_loadu_epi8(here, at)));
        at += count;
      } else {
        if (row + 1 < last) _mm512_storeu_si512(p, v);
        else _mm512_mask_storeu_epi8(p, kept(count), v);
        p += count;
      }
    }
    if (m.format == SM_INT4) p = left > right ? left : right;
  }
}

inline void store_scaled(__m512i bytes, int32_t offset, uint16_t scale, uint16_t* out, int64_t columns) {
  const __m512i zero = _mm512_set1_epi32(offset);
  const __m512 s = _mm512_set1_ps(from_bf16(scale));
  for (int i = 0; i < 4 && 16 * i < columns; i++) {
    __m512i v = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(bytes, 0));
    bytes = _mm512_shuffle_i64x2(bytes, bytes, 0b00111001);
    __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(v, zero)), s);
    __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(f));
    if (columns >= 64) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i), rounded);
    else _mm256_mask_storeu_epi16(out + 16 * i, __mmask16(kept(columns - 16 * i)), rounded);
  }
}

void unpack(const sm_matrix& m, int64_t first, int64_t last, uint16_t* out) {
  const int64_t words = words_of(m), half = (words + 1) / 2;
  const int32_t offset = offset_of(m.format);
  const __m512i none = _mm512_set1_epi8(int8_t(offset)), low = _mm512_set1_epi8(15);
  const uint8_t* p = values_of(m, first);
  for (int64_t row = first; row < last; row++, out += m.cols) {
    const uint64_t* mask = m.mask ? m.mask + row * words : nullptr;
    const uint16_t* scales = m.scales + (m.scales ? row * words : 0);
    const uint8_t *left = p, *right = p;
    for (int64_t w = 0; w < words; w++) {
      uint64_t bits = mask ? load64(mask + w) : ~0ull;
      int64_t columns = m.cols - 64 * w, count = _mm_popcnt_u64(bits);
      uint16_t* to = out + 64 * w;
      if (is_bf16(m.format)) {
        const bool whole = m.format == SM_SHARED_BF16;
        const uint8_t* q = p + (whole ? 64 : 2 * _mm_popcnt_u32(uint32_t(bits)));
        const __mmask32 low_half = __mmask32(bits), high_half = __mmask32(bits >> 32);
        __m512i a = whole ? _mm512_maskz_loadu_epi16(low_half, p) : _mm512_maskz_expand_epi16(low_half, load512(p));
        __m512i b = whole ? _mm512_maskz_loadu_epi16(high_half, q) : _mm512_maskz_expand_epi16(high_half, load512(q));
        if (columns >= 64) {
          _mm512_storeu_si512(to, a);
          _mm512_storeu_si512(to + 32, b);
        } else {
          _mm512_mask_storeu_epi16(to, __mmask32(kept(columns)), a);
          if (columns > 32) _mm512_mask_storeu_epi16(to + 32, __mmask32(kept(columns - 32)), b);
        }
        p += whole ? 2 * (columns < 64 ? columns : 64) : 2 * count;
      } else if (m.format == SM_SHARED_INT8) {
        store_scaled(_mm512_mask_loadu_epi8(none, bits, p), offset, scales[w], to, columns);
        p += 64;
      } else if (m.format == SM_INT4) {
        __m512i v = load512(w < half ? left : right);
        if (w >= half) v = _mm512_srli_epi16(v, 4);
        v = _mm512_mask_expand_epi8(none, bits, _mm512_and_si512(v, low));
        store_scaled(v, offset, scales[w], to, columns);
        (w < half ? left : right) += count;
      } else {
        store_scaled(_mm512_mask_expand_epi8(none, bits, load512(p)), offset, scales[w], to, columns);
        p += count;
      }
    }
    if (m.format == SM_INT4) p = left > right ? left : right;
  }
}

constexpr int GRAM_ROWS = 8;  // times 32 columns: 16 sums, so that the loads of 10 vectors keep up

// `pairs` has a pair of tokens of 16 columns in a vector, `across` the pairs of one column behind each other.
void gram(const uint16_t* across, const uint16_t* pairs, int64_t steps, int64_t cols, int64_t first, int64_t last,
          float* sums) {
  const int64_t tile = steps * 512;  // of 16 columns
  for (int64_t j = 0; j < last; j += 32) {
    const uint16_t* b = pairs + j / 16 * tile;
    const __mmask16 left = __mmask16(kept(last - j)), right = __mmask16(last - j > 16 ? kept(last - j - 16) : 0);
    for (int64_t i = first; i < last; i += GRAM_ROWS) {
      const uint16_t* a = across + i / 16 * tile + i % 16 * 32;
      __m512 sum[GRAM_ROWS][2] = {};
      for (int64_t k = 0; k < steps; k++)
        for (int64_t t = 0; t < 16; t++) {
          const __m512bh one = reinterpret_cast<__m512bh>(load512(b + k * 512 + t * 32));
          const __m512bh two = reinterpret_cast<__m512bh>(load512(b + tile + k * 512 + t * 32));
#pragma GCC unroll 8
          for (int r = 0; r < GRAM_ROWS; r++) {
            int pair;
            __builtin_memcpy(&pair, a + k * 512 + r * 32 + 2 * t, 4);
            const __m512bh own = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], own, one);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], own, two);
          }
        }
      for (int64_t r = 0; r < GRAM_ROWS && i + r < last; r++) {
        float* to = sums + (i + r) * cols + j;
        _mm512_mask_storeu_ps(to, left, _mm512_add_ps(_mm512_maskz_loadu_ps(left, to), sum[r][0]));
        _mm512_mask_storeu_ps(to + 16, right, _mm512_add_ps(_mm512_maskz_loadu_ps(right, to + 16), sum[r][1]));
      }
    }
  }
}

}  // namespace

const Kernels avx512_kernels = {
    "avx512",
    quantise,
    {product<DenseBf16>, product<DenseInt8>, product<SparseBf16>, product<SparseInt8>, product<SparseInt4>,
     product<SharedBf16>, product<SharedInt8>},
    {nullptr, pack, pack, pack, pack},
    {nullptr, unpack, unpack, unpack, unpack, unpack, unpack},
    nullptr,
    fma_arrange,
    fma_dense,
    activate,
    attend,
    cap_all,
    round_all,
    exchange,
    move,
    divergence,
    gram,
};
