// AVX2 and FMA. Expansion is a byte shuffle, eight weights at a time, with a table row for each mask byte.
#include <immintrin.h>

#include "kernels.h"
#include "avx2.h"
#include "divergence.h"
#include "exchange.h"
#include "move.h"
#include "expansion.h"
#include "plain.h"
#include "rows.h"

namespace {

constexpr int AHEAD = 4096;
constexpr int TILE = 4;

inline void fetch(const void* p) { _mm_prefetch(static_cast<const char*>(p) + AHEAD, _MM_HINT_T0); }
inline __m128i load8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256 floats(__m128i bf16) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16)); }

// to nearest, ties to even
inline __m128i to_halves(__m256 v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  bits = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}

void quantise(const float* x, int64_t words, int32_t offset, int8_t* q, float* scale, int32_t* init) {
  const __m128 sign = _mm_set1_ps(-0.0f);
  for (int64_t lane = 0; lane < words * 16; lane++) {
    __m128 v = _mm_loadu_ps(x + 4 * lane);
    __m128 a = _mm_andnot_ps(sign, v);
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    float largest = _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
    float up = largest > LEAST ? 127.0f / largest : 0.0f;
    __m128i steps = _mm_cvtps_epi32(_mm_mul_ps(v, _mm_set1_ps(up)));
    __m128i packed = _mm_packs_epi16(_mm_packs_epi32(steps, steps), _mm_setzero_si128());
    int32_t four = _mm_cvtsi128_si32(packed);
    __builtin_memcpy(q + 4 * lane, &four, 4);
    scale[lane] = largest / 127.0f;
    init[lane] = -offset * (q[4 * lane] + q[4 * lane + 1] + q[4 * lane + 2] + q[4 * lane + 3]);
  }
}

constexpr WideExpansion WIDE;

inline int64_t count(uint64_t bits) { return __builtin_popcountll(bits); }

// 16 columns of packed bytes, by two bytes of the mask, less `offset`, dropped ones 0
inline __m128i expand16(const uint8_t* p, const uint8_t* mask, __m128i low, int shift, __m128i less) {
  __m128i v = load128(p);
  if (shift >= 0) v = _mm_and_si128(shift ? _mm_srli_epi16(v, 4) : v, low);
  __m128i from = _mm_add_epi8(load128(WIDE.first[mask[0]]), load128(WIDE.second[mask[1]]));
  return _mm_shuffle_epi8(_mm_add_epi8(v, less), from);
}

// 64 columns of packed bytes, the survivors from p on, less `offset`, dropped ones 0; `shift` of 4 bits, or -1 for 8
inline const uint8_t* expand(const uint8_t* p, const uint8_t* mask, int shift, int8_t offset, __m256i* left,
                             __m256i* right) {
  const __m128i less = _mm_set1_epi8(int8_t(-offset)), low = _mm_set1_epi8(15);
  __m128i part[4];
  for (int i = 0; i < 4; i++, mask += 2) {
    part[i] = expand16(p, mask, low, shift, less);
    p += count(load16(mask));
  }
  *left = _mm256_set_m128i(part[1], part[0]);
  *right = _mm256_set_m128i(part[3], part[2]);
  return p;
}

// Byte `at` of a mask times 32: where its row of WIDE.floats begins. In as few operations as it takes, since these, not
// memory, are what expansion waits for.
inline uint64_t offset_in(uint64_t mask, int at) { return (at ? mask >> (8 * at - 5) : mask << 5) & (255 << 5); }

// 8 columns of packed bfloat16 as floats, dropped ones 0, by the row of the table at `offset`
inline __m256 expand_floats(const uint8_t* p, uint64_t offset) {
  __m256i twice = _mm256_broadcastsi128_si256(load128(p));
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(twice, load256(WIDE.floats[0] + offset)));
}

// 8 or 32 mask bits -> all ones in the columns that are kept
inline __m128i keep8(uint32_t bits) {
  const __m128i place = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm_cmpeq_epi16(_mm_and_si128(_mm_set1_epi16(int16_t(bits)), place), place);
}

inline __m256i keep32(uint32_t bits) {
  const __m256i place = _mm256_set1_epi64x(int64_t(0x8040201008040201));
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(int(bits)), byte), place), place);
}

// up to 8 dense bfloat16 weights, the others 0
inline __m128i load_columns(const uint8_t* p, int64_t columns) {
  if (columns >= 8) return load128(p);
  alignas(16) uint16_t some[8] = {};
  if (columns > 0) __builtin_memcpy(some, p, size_t(2 * columns));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(some));
}

// 32 signed weights, the row's `part`, times N rows of activations; a lane of 4 columns a 32-bit sum, exact
template <int N>
inline void add_bytes(__m256* sum, __m256i weights, float scale, const Activations& x, int64_t b, int64_t part) {
  const __m256i size = _mm256_abs_epi8(weights), ones = _mm256_set1_epi16(1);
  const __m256 s = _mm256_set1_ps(scale);
  for (int i = 0; i < N; i++) {
    int64_t at = (b + i) * x.words * 2 + part;
    __m256i signed_q = _mm256_sign_epi8(load256(x.q + 32 * at), weights);
    __m256i dot = _mm256_madd_epi16(_mm256_maddubs_epi16(size, signed_q), ones);
    __m256 both = _mm256_mul_ps(s, _mm256_loadu_ps(x.scale + 8 * at));
    sum[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), both, sum[i]);
  }
}

template <int N>
inline void add_floats(__m256* sum, __m256 weights, const Activations& x, int64_t b, int64_t column) {
  for (int i = 0; i < N; i++)
    sum[i] = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x.f32 + (b + i) * x.words * 64 + column), sum[i]);
}

template <template <int> class Row>
constexpr auto product = by_rows<Row, TILE>;

template <int N>
inline void finish(const __m256* even, const __m256* odd, float* y, int64_t stride) {
  for (int i = 0; i < N; i++) y[i * stride] = sum_of(_mm256_add_ps(even[i], odd[i]));
}

template <int N>
struct DenseBf16 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t, int64_t b, const uint8_t* p, float* y,
                            int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    int64_t c = 0;
    for (; c + 16 <= m.cols; c += 16, p += 32) {
      fetch(p);
      add_floats<N>(even, floats(load128(p)), x, b, c);
      add_floats<N>(odd, floats(load128(p + 16)), x, b, c + 8);
    }
    for (; c < m.cols; c += 8) {
      // the sums that the packed kernel makes, in its order: zeros in place give the very same result
      int64_t left = m.cols - c < 8 ? m.cols - c : 8;
      add_floats<N>(c % 16 ? odd : even, floats(load_columns(p, left)), x, b, c);
      p += 2 * left;
    }
    finish<N>(even, odd, y, stride);
    return p;
  }
};

template <int N>
struct SparseBf16 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    const uint64_t* mask = m.mask + row * x.words;
    for (int64_t w = 0; w < x.words; w++) {
      uint64_t bits = load64(mask + w);
      fetch(p);
      for (int j = 0; j < 64; j += 16, bits >>= 16) {
        const uint64_t left = offset_in(bits, 0), right = offset_in(bits, 1);
        add_floats<N>(even, expand_floats(p, left), x, b, 64 * w + j);
        p += 2 * count(left);
        add_floats<N>(odd, expand_floats(p, right), x, b, 64 * w + j + 8);
        p += 2 * count(right);
      }
    }
    finish<N>(even, odd, y, stride);
    return p;
  }
};

template <int N>
struct SharedBf16 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    const uint8_t* mask = reinterpret_cast<const uint8_t*>(m.mask + row * x.words);
    int64_t c = 0;
    for (; c + 16 <= m.cols; c += 16, p += 32) {
      fetch(p);
      add_floats<N>(even, floats(_mm_and_si128(load128(p), keep8(mask[c / 8]))), x, b, c);
      add_floats<N>(odd, floats(_mm_and_si128(load128(p + 16), keep8(mask[c / 8 + 1]))), x, b, c + 8);
    }
    for (; c < m.cols; c += 8) {
      int64_t left = m.cols - c < 8 ? m.cols - c : 8;
      add_floats<N>(c % 16 ? odd : even, floats(_mm_and_si128(load_columns(p, left), keep8(mask[c / 8]))), x, b, c);
      p += 2 * left;
    }
    finish<N>(even, odd, y, stride);
    return p;
  }
};

template <int N>
struct SharedInt8 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    const __m256i flip = _mm256_set1_epi8(-128);
    for (int64_t w = 0; w < x.words; w++, p += 64) {
      fetch(p);
      const uint64_t bits = load64(m.mask + row * x.words + w);
      float scale = from_bf16(m.scales[row * x.words + w]);
      __m256i left = _mm256_and_si256(_mm256_xor_si256(load256(p), flip), keep32(uint32_t(bits)));
      __m256i right = _mm256_and_si256(_mm256_xor_si256(load256(p + 32), flip), keep32(uint32_t(bits >> 32)));
      add_bytes<N>(even, left, scale, x, b, 2 * w);
      add_bytes<N>(odd, right, scale, x, b, 2 * w + 1);
    }
    finish<N>(even, odd, y, stride);
    return p;
  }
};

template <int N>
struct DenseInt8 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    const __m256i flip = _mm256_set1_epi8(-128);
    for (int64_t w = 0; w < x.words; w++, p += 64) {
      fetch(p);
      float scale = from_bf16(m.scales[row * x.words + w]);
      add_bytes<N>(even, _mm256_xor_si256(load256(p), flip), scale, x, b, 2 * w);
      add_bytes<N>(odd, _mm256_xor_si256(load256(p + 32), flip), scale, x, b, 2 * w + 1);
    }
    finish<N>(even, odd, y, stride);
    return p;
  }
};

template <int N>
struct SparseInt8 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    const uint8_t* mask = reinterpret_cast<const uint8_t*>(m.mask + row * x.words);
    for (int64_t w = 0; w < x.words; w++) {
      fetch(p);
      float scale = from_bf16(m.scales[row * x.words + w]);
      __m256i left, right;
      p = expand(p, mask + 8 * w, -1, -128, &left, &right);
      add_bytes<N>(even, left, scale, x, b, 2 * w);
      add_bytes<N>(odd, right, scale, x, b, 2 * w + 1);
    }
    finish<N>(even, odd, y, stride);
    return p;
  }
};

template <int N>
struct SparseInt4 {
  static const uint8_t* run(const sm_matrix& m, const Activations& x, int64_t row, int64_t b, const uint8_t* p,
                            float* y, int64_t stride) {
    __m256 even[N] = {}, odd[N] = {};
    const uint8_t* mask = reinterpret_cast<const uint8_t*>(m.mask + row * x.words);
    const int64_t half = (x.words + 1) / 2;
    const uint8_t *end[2] = {p, p};
    for (int side = 0; side < 2; side++) {
      const uint8_t* at = p;
      for (int64_t w = side ? half : 0; w < (side ? x.words : half); w++) {
        fetch(at);
        float scale = from_bf16(m.scales[row * x.words + w]);
        __m256i left, right;
        at = expand(at, mask + 8 * w, 4 * side, 8, &left, &right);
        add_bytes<N>(even, left, scale, x, b, 2 * w);
        add_bytes<N>(odd, right, scale, x, b, 2 * w + 1);
      }
      end[side] = at;
    }
    finish<N>(even, odd, y, stride);
    return end[0] > end[1] ? end[0] : end[1];
  }
};

inline void store_halves(uint16_t* out, __m128i v, int64_t columns) {
  if (columns >= 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(out), v);
  else {
    alignas(16) uint16_t buffer[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), v);
    for (int64_t i = 0; i < columns; i++) out[i] = buffer[i];
  }
}

void unpack(const sm_matrix& m, int64_t first, int64_t last, uint16_t* out) {
  const int64_t words = words_of(m), half = (words + 1) / 2;
  const int8_t offset = int8_t(offset_of(m.format));
  const __m128i low = _mm_set1_epi8(15);
  const uint8_t* p = values_of(m, first);
  for (int64_t row = first; row < last; row++, out += m.cols) {
    const uint8_t *left = p, *right = p;
    for (int64_t w = 0; w < words; w++) {
      uint64_t bits = m.mask ? load64(m.mask + row * words + w) : ~0ull;
      const uint8_t*& at = m.format != SM_INT4 ? p : w < half ? left : right;
      for (int64_t j = 64 * w; j < 64 * w + 64; j += 8, bits >>= 8) {
        int count = _mm_popcnt_u32(bits & 255);
        if (m.format == SM_SHARED_BF16) {
          const int64_t columns = m.cols - j < 8 ? m.cols - j : 8;
          if (columns > 0) {
            store_halves(out + j, _mm_and_si128(load_columns(p, columns), keep8(bits & 255)), columns);
            p += 2 * columns;
          }
          continue;
        }
        if (m.format == SM_BF16) {
          if (j < m.cols) store_halves(out + j, _mm_shuffle_epi8(load128(at), load128(TABLE.halves[bits & 255])), m.cols - j);
          at += 2 * count;
          continue;
        }
        const bool whole = m.format == SM_SHARED_INT8;
        __m128i v = load8(at);
        at += whole ? 8 : count;
        if (j >= m.cols) continue;
        if (m.format == SM_INT4) v = _mm_and_si128(w < half ? v : _mm_srli_epi16(v, 4), low);
        v = _mm_sub_epi8(v, _mm_set1_epi8(offset));
        if (whole) v = _mm_and_si128(v, _mm_packs_epi16(keep8(bits & 255), _mm_setzero_si128()));
        else v = _mm_shuffle_epi8(v, load8(TABLE.bytes[bits & 255]));
        __m256 f = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v));
        f = _mm256_mul_ps(f, _mm256_set1_ps(from_bf16(m.scales[row * words + w])));
        store_halves(out + j, to_halves(f), m.cols - j);
      }
    }
    if (m.format == SM_INT4) p = left > right ? left : right;
  }
}

}  // namespace

const Kernels avx2_kernels = {
    "avx2",
    quantise,
    {product<DenseBf16>, product<DenseInt8>, product<SparseBf16>, product<SparseInt8>, product<SparseInt4>,
     product<SharedBf16>, product<SharedInt8>},
    {},  // packing, done once a model, is the reference's
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
};
