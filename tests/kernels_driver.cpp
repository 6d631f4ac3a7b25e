// Packs, unpacks and multiplies matrices of odd shapes in buffers of exactly the promised size, for the sanitizers,
// exchanges weights of rows, moves masks along gradients, and does the first from several threads at once.
// Prints the name of the kernels; exit status 1 if a product is wrong.
#include <math.h>
#include <stdio.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../csrc/kernels.h"

static thread_local std::mt19937 random_bits(0);

static int check(int64_t format, int64_t rows, int64_t cols, int64_t count, int64_t threads) {
  const int64_t words = (cols + 63) / 64;
  std::normal_distribution<float> normal;
  std::vector<uint16_t> dense(rows * cols), x(count * cols), y(count * rows), out(rows * cols);
  for (auto& w : dense) w = to_bf16(normal(random_bits));
  for (auto& v : x) v = to_bf16(normal(random_bits));
  std::vector<uint64_t> mask(rows * words);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t c = 0; c < cols; c++) {
      bool keep = row % 4 == 1 ? false : row % 4 == 2 ? true : random_bits() & 1;
      mask[row * words + c / 64] |= uint64_t(keep) << c % 64;
    }
  std::vector<int64_t> starts((rows + SM_BLOCK - 1) / SM_BLOCK + 1);
  std::vector<uint16_t> scales(rows * words);
  const bool masked = format >= SM_BF16, shared = format == SM_SHARED_BF16 || format == SM_SHARED_INT8;
  const bool integers = !is_bf16(format), whole = shared || !masked;
  int64_t size = whole ? rows * (integers ? 64 * words : 2 * cols)
                       : sm_starts(format, mask.data(), rows, cols, starts.data());
  std::unique_ptr<uint8_t[]> values(new uint8_t[size + (whole ? 0 : SM_SLACK)]());
  sm_matrix m = {shared ? format - SM_SHARED_BF16 : format, rows, cols, masked && !shared ? mask.data() : nullptr,
                 values.get(), whole ? nullptr : starts.data(), integers ? scales.data() : nullptr};
  if (m.format == SM_DENSE_BF16) __builtin_memcpy(values.get(), dense.data(), size_t(size));
  else sm_pack(&m, dense.data(), nullptr, threads);
  m.format = format;
  if (shared) m.mask = mask.data();
  sm_unpack(&m, 0, rows, out.data(), threads);
  sm_matmul(&m, x.data(), count, nullptr, y.data(), threads);
  for (int64_t b = 0; b < count; b++)
    for (int64_t row = 0; row < rows; row++) {
      double sum = 0, size_of_sum = 0;
      for (int64_t c = 0; c < cols; c++) {
        double term = double(from_bf16(out[row * cols + c])) * from_bf16(x[b * cols + c]);
        sum += term;
        size_of_sum += fabs(term);
      }
      if (fabs(from_bf16(y[b * rows + row]) - sum) > 0.01 * size_of_sum + 1e-6) {
        fprintf(stderr, "format %d, %d x %d, row %d: %g, not %g\n", int(format), int(rows), int(cols), int(row),
                from_bf16(y[b * rows + row]), sum);
        return 1;
      }
    }
  if (masked && !integers) {  // the very sums of dense with zeros
    const sm_matrix zeros = {SM_DENSE_BF16, rows, cols, nullptr, reinterpret_cast<const uint8_t*>(out.data()), nullptr,
                             nullptr};
    std::vector<uint16_t> other(count * rows);
    sm_matmul(&zeros, x.data(), count, nullptr, other.data(), threads);
    if (other != y) return fprintf(stderr, "format %d is not dense with zeros\n", int(format)), 1;
  }
  return 0;
}

// Each row by itself gives what it gives beside others.
static int check_dense(int64_t rows, int64_t cols, int64_t count, int64_t threads) {
  std::normal_distribution<float> normal;
  std::vector<uint16_t> w(rows * cols), x(count * cols), bias(rows), y(count * rows), alone(rows);
  for (auto* numbers : {&w, &x, &bias})
    for (auto& v : *numbers) v = to_bf16(normal(random_bits));
  sm_dense(w.data(), rows, cols, x.data(), count, bias.data(), y.data(), threads);
  for (int64_t b = 0; b < count; b++) {
    sm_dense(w.data(), rows, cols, x.data() + b * cols, 1, bias.data(), alone.data(), 1);
    for (int64_t row = 0; row < rows; row++) {
      double sum = from_bf16(bias[row]), size = fabs(sum);
      for (int64_t c = 0; c < cols; c++) {
        const double term = double(from_bf16(w[row * cols + c])) * from_bf16(x[b * cols + c]);
        sum += term;
        size += fabs(term);
      }
      const float found = from_bf16(y[b * rows + row]);
      if (fabs(found - sum) > 0.005 * size || y[b * rows + row] != alone[row])
        return fprintf(stderr, "dense %d x %d, row %d: %g, not %g\n", int(rows), int(cols), int(row), found, sum), 1;
    }
  }
  return 0;
}

// Exchanges keep as many weights of every row (and group) and never raise its error.
static int check_exchange(int64_t rows, int64_t cols, int64_t group, int64_t threads) {
  std::normal_distribution<float> normal;
  std::vector<float> w(rows * cols), x(cols * 20), gram(cols * cols), diagonal(cols), pull(rows * cols);
  for (auto& v : w) v = normal(random_bits);
  for (auto& v : x) v = normal(random_bits);
  for (int64_t i = 0; i < cols; i++)
    for (int64_t j = 0; j < cols; j++)
      for (int64_t t = 0; t < 20; t++) gram[i * cols + j] += x[i * 20 + t] * x[j * 20 + t];
  for (int64_t i = 0; i < cols; i++) diagonal[i] = gram[i * cols + i];
  std::vector<uint8_t> keep(rows * cols);
  for (int64_t k = 0; k < rows * cols; k++) keep[k] = k % cols % 2;
  auto error = [&](int64_t row, bool fill) {
    double sum = 0;
    for (int64_t i = 0; i < cols; i++) {
      double slope = 0;
      for (int64_t j = 0; j < cols; j++)
        if (!keep[row * cols + j]) slope += double(w[row * cols + j]) * gram[i * cols + j];
      if (fill) pull[row * cols + i] = float(slope);
      if (!keep[row * cols + i]) sum += w[row * cols + i] * slope;
    }
    return sum;
  };
  std::vector<double> before(rows);
  for (int64_t row = 0; row < rows; row++) before[row] = error(row, true);
  sm_exchange(w.data(), gram.data(), diagonal.data(), rows, cols, group, 50, 1e-6f, pull.data(), keep.data(), threads);
  for (int64_t row = 0; row < rows; row++) {
    int64_t kept = 0;
    for (int64_t i = 0; i < cols; i++) {
      kept += keep[row * cols + i];
      if (group && i % group == group - 1 && kept != (i + 1) / 2) return fprintf(stderr, "a group has another count\n"), 1;
    }
    if (kept != cols / 2) return fprintf(stderr, "a row has another count\n"), 1;
    if (error(row, false) > before[row] * 1.0001 + 1e-4) return fprintf(stderr, "an error rose\n"), 1;
  }
  return 0;
}

// A moved mask drops what it should of every row or whole group, and what it keeps has its weight.
template <class Number>
static int check_move(int64_t rows, int64_t cols, int64_t group, int64_t removed, int64_t threads) {
  std::normal_distribution<float> normal;
  std::vector<Number> gradient(rows * cols), weights(rows * cols), masked(rows * cols);
  std::vector<float> scores(rows * cols), square(rows);
  auto number = [](float x) { return Number(sizeof(Number) == 4 ? x : to_bf16(x)); };
  for (auto& v : gradient) v = number(normal(random_bits));
  for (auto& v : weights) v = number(2.0f);
  for (auto& v : scores) v = float(random_bits() % 9);  // many are equal
  std::vector<int64_t> counts;
  if (!group)
    for (int64_t row = 0; row < rows; row++) counts.push_back(row % 3 ? removed : row % (cols + 1));
  const sm_move m = {rows, cols, sizeof(Number) == 4, group, group ? removed : 0, 0.01f, 0.95f, 0.05f, counts.data(),
                     gradient.data(), weights.data(), scores.data(), square.data(), masked.data()};
  sm_move_scores(&m, threads);
  for (int64_t row = 0; row < rows; row++) {
    int64_t gone = 0;
    for (int64_t c = 0; c < cols; c++) {
      const Number found = masked[row * cols + c];
      if (found != 0 && found != weights[row * cols + c]) return fprintf(stderr, "another weight\n"), 1;
      gone += found == 0;
      if (group && c % group == group - 1 && gone != (c + 1) / group * removed)
        return fprintf(stderr, "a group lost another count\n"), 1;
    }
    if (!group && gone != counts[row]) return fprintf(stderr, "a row lost another count\n"), 1;
  }
  return 0;
}

// The loss is not negative, and a gradient sums to nothing.
static int check_divergence(int64_t rows, int64_t cols, int64_t threads) {
  std::normal_distribution<float> normal;
  std::vector<float> dense(rows * cols), pruned(rows * cols), slopes(rows * cols), weights(rows, 2.0f), found(rows);
  std::vector<uint16_t> narrow(rows * cols), other(rows * cols), narrow_slopes(rows * cols);
  for (int64_t k = 0; k < rows * cols; k++) {
    dense[k] = normal(random_bits), pruned[k] = normal(random_bits);
    narrow[k] = to_bf16(dense[k]), other[k] = to_bf16(pruned[k]);
  }
  sm_divergence(narrow.data(), other.data(), 0, rows, cols, weights.data(), narrow_slopes.data(), found.data(), threads);
  sm_divergence(dense.data(), pruned.data(), 1, rows, cols, weights.data(), slopes.data(), found.data(), threads);
  for (int64_t row = 0; row < rows; row++) {
    double sum = 0;
    for (int64_t c = 0; c < cols; c++) sum += slopes[row * cols + c];
    if (found[row] < -1e-5 || fabs(sum) > 1e-4) return fprintf(stderr, "no divergence\n"), 1;
  }
  return 0;
}

// Sums on and below the diagonal, and nothing beyond their panels.
static int check_gram(int64_t tokens, int64_t cols, int64_t panel, int64_t threads) {
  std::normal_distribution<float> normal;
  std::vector<uint16_t> x(tokens * cols);
  std::vector<float> sums(cols * cols, 1.0f);
  for (auto& v : x) v = to_bf16(normal(random_bits));
  if (!sm_gram(x.data(), tokens, cols, panel, sums.data(), threads)) return 0;
  for (int64_t i = 0; i < cols; i++)
    for (int64_t j = 0; j < cols; j++) {
      double sum = 1;
      for (int64_t t = 0; t < tokens && j / panel <= i / panel; t++)
        sum += double(from_bf16(x[t * cols + i])) * from_bf16(x[t * cols + j]);
      if (fabs(sums[i * cols + j] - sum) > 1e-3) return fprintf(stderr, "a product is wrong\n"), 1;
    }
  return 0;
}

int main() {
  puts(sm_kernels());
  const int64_t shapes[][2] = {{1, 1}, {1, 64}, {3, 63}, {16, 65}, {17, 127}, {33, 129}, {50, 200}, {4, 896}, {130, 321}};
  for (auto& shape : shapes)
    for (int64_t format = 0; format < SM_FORMATS; format++)
      for (int64_t count : {1, 2, 7, 18})
        for (int64_t threads : {1, 3})
          if (check(format, shape[0], shape[1], count, threads)) return 1;
  for (int64_t cols : {1, 16, 65, 1024, 1040, 1100, 2050})
    for (int64_t count : {1, 2, 3, 4, 5, 6, 18, 257})
      if (check_dense(count < 100 ? 37 : 5, cols, count, 1 + count % 3)) return 1;
  for (int64_t cols : {1, 2, 5, 16, 67, 200})
    for (int64_t threads : {1, 3}) {
      if (check_exchange(7, cols, 0, threads)) return 1;
      for (int64_t group : {2, 4, 8})
        if (cols % group == 0 && check_exchange(7, cols, group, threads)) return 1;
    }
  for (int64_t cols : {1, 2, 5, 16, 67, 900})
    for (int64_t threads : {1, 3}) {
      if (check_divergence(7, cols, threads)) return 1;
      for (int64_t tokens : {1, 33})
        if (check_gram(tokens, cols, 96, threads)) return 1;
      for (int64_t removed : {int64_t(0), cols / 3, cols / 2, cols - 1})
        if (check_move<float>(7, cols, 0, removed, threads) || check_move<uint16_t>(7, cols, 0, removed, threads)) return 1;
      for (int64_t group : {2, 4, 8})
        if (check_move<float>(7, cols, group, group / 2, threads) || check_move<uint16_t>(7, cols, group, 1, threads))
          return 1;
    }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int64_t caller = 0; caller < 4; caller++)
    callers.emplace_back([&wrong] {
      for (int64_t format = 0; format < SM_FORMATS; format++)
        for (int64_t count : {1, 18}) wrong += check(format, 80, 193, count, 3);
    });
  for (auto& caller : callers) caller.join();
  return wrong != 0;
}
