// Which instruction set is used, and the work shared out among threads.
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <memory>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "product.h"

namespace {

#if defined(__x86_64__)
// Tiles of bfloat16 are there, and the kernel lets this process use them.
bool has_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (~d & (1u << 22 | 1u << 24))) return false;
  const long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

#if defined(__aarch64__)
// vdotq_s32 is there
bool has_dot_products() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return true;  // on all of Apple's
#endif
}
#endif

Kernels choose() {
  const Kernels* best = &reference_kernels;
  const char* wanted = getenv("SUBMODEL_KERNELS");
#if defined(__x86_64__)
  __builtin_cpu_init();
  const Kernels* known[] = {&avx2_kernels, &avx512_kernels};
  const bool has[] = {
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt") &&
          __builtin_cpu_supports("bmi2"),
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2") &&
          __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"),
  };
  for (int i = 0; i < 2; i++) {
    if (!has[i] || (wanted && strcmp(wanted, "reference") == 0)) break;
    best = known[i];
    if (wanted && strcmp(wanted, best->name) == 0) break;
  }
#elif defined(__aarch64__)
  if (has_dot_products() && !(wanted && strcmp(wanted, "reference") == 0)) best = &neon_kernels;
#else
  (void)wanted;
#endif
  Kernels chosen = *best;
#if defined(__x86_64__)
  if (best == &avx512_kernels && (!wanted || strcmp(wanted, "avx512") != 0) && has_amx()) {
    chosen.name = "amx";
    chosen.several = amx_product;
    chosen.gram = amx_gram;
  }
#endif
  if (!chosen.dense) chosen.arrange = reference_kernels.arrange, chosen.dense = reference_kernels.dense;
  if (!chosen.quantise) chosen.quantise = reference_kernels.quantise;
  for (int f = 0; f < SM_FORMATS; f++) {
    if (!chosen.pack[f]) chosen.pack[f] = reference_kernels.pack[f];
    if (!chosen.unpack[f]) chosen.unpack[f] = reference_kernels.unpack[f];
    if (!chosen.product[f]) chosen.product[f] = reference_kernels.product[f];
  }
  return chosen;
}

// rows of one piece of work: whole blocks, about 64 KiB of weights
int64_t piece_rows(const sm_matrix& m) {
  int64_t blocks = (int64_t(1) << 19) / (read_bits[m.format] * (m.cols + 1) * SM_BLOCK);
  return (blocks < 1 ? 1 : blocks) * SM_BLOCK;
}

constexpr int64_t TOGETHER = 256;  // rows of activations that dense weights meet before they are read again

int64_t pieces(int64_t rows, int64_t piece) { return (rows + piece - 1) / piece; }

}  // namespace

const Kernels kernels = choose();

Input::Input(const float* x, int64_t count, int64_t cols, bool rounded)
    : words((cols + 63) / 64), padded(new float[count * words * 64]) {
  for (int64_t b = 0; b < count; b++) {
    float* to = padded.get() + b * words * 64;
    for (int64_t c = 0; c < cols; c++) to[c] = rounded ? x[b * cols + c] : from_bf16(to_bf16(x[b * cols + c]));
    for (int64_t c = cols; c < words * 64; c++) to[c] = 0;
  }
  activations.count = count;
  activations.words = words;
  activations.f32 = padded.get();
}

void Input::prepare(int64_t format) {
  const int64_t rows = activations.count;
  if (is_bf16(format)) {
    if (activations.bf16) return;
    bf16.reset(new uint16_t[rows * words * 64]);
    for (int64_t i = 0; i < rows * words * 64; i++) bf16[i] = uint16_t(float_bits(padded[i]) >> 16);
    activations.bf16 = bf16.get();
    return;
  }
  const int32_t offset = offset_of(format);
  if (activations.q && offset == prepared_offset) return;
  prepared_offset = offset;
  q.reset(new int8_t[rows * words * 64]);
  scale.reset(new float[rows * words * 16]);
  init.reset(new int32_t[rows * words * 16]);
  for (int64_t b = 0; b < rows; b++)
    kernels.quantise(padded.get() + b * words * 64, words, offset, q.get() + b * words * 64,
                     scale.get() + b * words * 16, init.get() + b * words * 16);
  activations.q = q.get();
  activations.scale = scale.get();
  activations.init = init.get();
}

bool Input::together(int64_t format) const {
  // rows from which `several` is faster than one product after another: unpacking must pay
  const int64_t least = is_bf16(format) ? 5 : 9;
  return kernels.several && !alone && activations.count >= least;
}

void Input::prepare_tiles() {
  if (activations.tiles) return;
  const int64_t count = activations.count, steps = words * 2, groups = (count + 15) / 16;
  tiles.reset(new uint16_t[groups * steps * 512]());
  for (int64_t b = 0; b < count; b++)
    for (int64_t pair = 0; pair < words * 32; pair++) {
      uint16_t* to = tiles.get() + ((b / 16) * steps + pair / 16) * 512 + (pair % 16) * 32 + (b % 16) * 2;
      const float* from = padded.get() + b * words * 64 + 2 * pair;
      to[0] = to_bf16(from[0]);
      to[1] = to_bf16(from[1]);
    }
  activations.tiles = tiles.get();
}

// y[b * stride + row] for the rows [from, to)
static void product_of(const sm_matrix& m, const Input& x, int64_t from, int64_t to, float* y, int64_t stride) {
  if (!x.together(m.format)) return kernels.product[m.format](m, x.activations, from, to, y, stride);
  // kept by each thread: a fresh one would cost more, in page faults, than unpacking
  static thread_local std::vector<uint16_t> scratch;
  if (int64_t(scratch.size()) < scratch_of(m)) scratch.resize(size_t(scratch_of(m)));
  uint16_t* aligned = scratch.data() + (-reinterpret_cast<uintptr_t>(scratch.data()) % 64) / 2;
  kernels.several(kernels, m, x.activations, from, to, y, stride, aligned);
}

void multiply(const sm_matrix* const* matrices, float* const* y, int64_t count, Input& x, int64_t threads) {
  int64_t first[8], piece[8], total = 0;
  for (int64_t i = 0; i < count; i++) {
    if (x.together(matrices[i]->format)) x.prepare_tiles();
    else x.prepare(matrices[i]->format);
    piece[i] = piece_rows(*matrices[i]);
    first[i] = total;
    total += pieces(matrices[i]->rows, piece[i]);
  }
  parallel(threads, total, [&](int64_t index) {
    int64_t i = count - 1;
    while (index < first[i]) i--;
    const sm_matrix& m = *matrices[i];
    int64_t from = (index - first[i]) * piece[i];
    int64_t to = from + piece[i] < m.rows ? from + piece[i] : m.rows;
    product_of(m, x, from, to, y[i], m.rows);
  });
}

void multiply_rows(const sm_rows& rows, float* y, Input& x, int64_t threads) {
  const sm_matrix& m = *rows.matrix;
  if (!rows.runs) return multiply(&rows.matrix, &y, 1, x, threads);
  if (x.together(m.format)) x.prepare_tiles();
  else x.prepare(m.format);
  const int64_t piece = piece_rows(m);
  parallel(threads, pieces(rows.total, piece), [&](int64_t index) {
    // the runs that begin in this piece of y
    int64_t low = 0, high = rows.count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (rows.runs[3 * middle + 2] < index * piece) low = middle + 1;
      else high = middle;
    }
    for (; low < rows.count && rows.runs[3 * low + 2] < (index + 1) * piece; low++) {
      const int64_t *run = rows.runs + 3 * low, first = run[0], last = run[1], at = run[2];
      product_of(m, x, first, last, y + at - first, rows.total);
    }
  });
}

extern "C" {

const char* sm_kernels() { return kernels.name; }

int64_t sm_starts(int64_t format, const uint64_t* mask, int64_t rows, int64_t cols, int64_t* starts) {
  int64_t words = (cols + 63) / 64, half = (words + 1) / 2, at = 0;
  uint64_t beyond = cols % 64 ? ~0ull << cols % 64 : 0;
  for (int64_t row = 0; row < rows; row++, mask += words) {
    if (row % SM_BLOCK == 0) starts[row / SM_BLOCK] = at;
    int64_t left = 0, right = 0;
    for (int64_t w = 0; w < half; w++) left += __builtin_popcountll(load64(mask + w));
    for (int64_t w = half; w < words; w++) right += __builtin_popcountll(load64(mask + w));
    if (words && load64(mask + words - 1) & beyond) return -1;
    at += row_bytes(format, left, right);
  }
  starts[pieces(rows, SM_BLOCK)] = at;
  return at;
}

void sm_pack(const sm_matrix* m, const uint16_t* dense, const uint16_t* grid, int64_t threads) {
  int64_t piece = piece_rows(*m);
  parallel(threads, pieces(m->rows, piece), [&](int64_t i) {
    int64_t to = (i + 1) * piece < m->rows ? (i + 1) * piece : m->rows;
    if (grid) pack_on(*m, dense, grid, i * piece, to);
    else kernels.pack[m->format](*m, dense, i * piece, to);
  });
}

void sm_unpack(const sm_matrix* m, int64_t first, int64_t last, uint16_t* out, int64_t threads) {
  int64_t piece = piece_rows(*m);
  parallel(threads, pieces(last - first, piece), [&](int64_t i) {
    int64_t from = first + i * piece, to = from + piece < last ? from + piece : last;
    kernels.unpack[m->format](*m, from, to, out + i * piece * m->cols);
  });
}

void sm_matmul(const sm_matrix* m, const uint16_t* x, int64_t count, const uint16_t* bias, uint16_t* y,
               int64_t threads) {
  std::unique_ptr<float[]> values(new float[count * m->cols]), found(new float[count * m->rows]);
  for (int64_t i = 0; i < count * m->cols; i++) values[i] = from_bf16(x[i]);
  Input input(values.get(), count, m->cols, true);
  float* out = found.get();
  multiply(&m, &out, 1, input, threads);
  for (int64_t b = 0; b < count; b++, y += m->rows, out += m->rows)
    kernels.round(out, bias, m->rows, y);
}

void sm_dense(const uint16_t* weights, int64_t rows, int64_t cols, const uint16_t* x, int64_t count,
              const uint16_t* bias, uint16_t* y, int64_t threads) {
  const int64_t piece = 2 * SM_BLOCK, width = (cols + 15) / 16 * 16;
  const int64_t most = count < TOGETHER ? count : TOGETHER;
  struct alignas(64) Line {
    float values[16];
  };
  std::unique_ptr<Line[]> lines(new Line[most * width / 16]);
  float* arranged = lines[0].values;
  for (int64_t at = 0; at < count; at += TOGETHER) {
    const int64_t number = count - at < TOGETHER ? count - at : TOGETHER;
    kernels.arrange(x + at * cols, number, cols, arranged);
    parallel(threads, pieces(rows, piece), [&](int64_t i) {
      float sums[TOGETHER * piece];
      const int64_t first = i * piece, height = rows - first < piece ? rows - first : piece;
      kernels.dense(weights + first * cols, height, cols, arranged, number, sums, piece);
      for (int64_t b = 0; b < number; b++)
        kernels.round(sums + b * piece, bias ? bias + first : nullptr, height, y + (at + b) * rows + first);
    });
  }
}

int64_t sm_gram(const uint16_t* x, int64_t tokens, int64_t cols, int64_t panel, float* sums, int64_t threads) {
  if (!kernels.gram) return 0;
  const int64_t steps = (tokens + 31) / 32, blocks = (cols + 31) / 32 * 2;
  // of 16 columns and 32 tokens: a column a row; and a pair of tokens a row, the two of a column together
  static thread_local std::vector<uint16_t> room;
  if (int64_t(room.size()) < 2 * blocks * steps * 512) room.resize(size_t(2 * blocks * steps * 512));
  uint16_t *across = room.data(), *pairs = across + blocks * steps * 512;
  parallel(threads, blocks, [&](int64_t block) {
    for (int64_t step = 0; step < steps; step++) {
      uint16_t *a = across + (block * steps + step) * 512, *b = pairs + (block * steps + step) * 512;
      for (int64_t t = 0; t < 32; t++)
        for (int64_t c = 0; c < 16; c++) {
          const int64_t token = step * 32 + t, col = block * 16 + c;
          const uint16_t value = token < tokens && col < cols ? x[token * cols + col] : 0;
          a[c * 32 + t] = value;
          b[t / 2 * 32 + c * 2 + t % 2] = value;
        }
    }
  });
  parallel(threads, pieces(cols, panel), [&](int64_t at) {
    const int64_t first = at * panel, last = first + panel < cols ? first + panel : cols;
    kernels.gram(across, pairs, steps, cols, first, last, sums);
  });
  return 1;
}

void sm_exchange(const float* w, const float* gram, const float* diagonal, int64_t rows, int64_t cols, int64_t group,
                 int64_t rounds, float least, float* pull, uint8_t* keep, int64_t threads) {
  parallel(threads, rows, [&](int64_t row) {
    static thread_local std::vector<float> room;
    if (int64_t(room.size()) < 2 * cols) room.resize(size_t(2 * cols));
    const int64_t at = row * cols;
    kernels.exchange(w + at, gram, diagonal, cols, group, rounds, least, pull + at, keep + at, room.data());
  });
}

void sm_move_scores(const sm_move* m, int64_t threads) {
  parallel(threads, m->rows, [&](int64_t row) {
    static thread_local std::vector<float> room;
    if (int64_t(room.size()) * 4 < 9 * m->cols + 3) room.resize(size_t(9 * m->cols + 3) / 4);
    kernels.move(*m, row, room.data());
  });
}

void sm_divergence(const void* dense, const void* pruned, int64_t wide, int64_t rows, int64_t cols,
                   const float* weights, void* slopes, float* found, int64_t threads) {
  const int64_t bytes = cols * (wide ? 4 : 2);
  parallel(threads, rows, [&](int64_t row) {
    const int64_t at = row * bytes;
    found[row] = kernels.divergence(static_cast<const char*>(dense) + at, static_cast<const char*>(pruned) + at, wide,
                                    cols, weights[row], static_cast<char*>(slopes) + at);
  });
}

}
