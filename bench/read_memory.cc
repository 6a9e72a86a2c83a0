// How fast two threads read memory, and nothing else: the limit of everything that must read so many bytes, such as a model's weights for
// each token.
//   bench_read_memory BYTES [THREADS]
// For each line on standard input it reads the memory a few times and prints the seconds of the best pass: a limit is not slowed down by
// chance. Ends when its standard input ends.
//
// Each thread adds up its part in several sums, so that no addition waits for another, with the widest vectors that the processor has, and
// reads several places of its part in turn, which keeps more of the processor's prefetchers busy than one. How many places are best differs
// between processors, so each number is tried and the best counts.
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

using Line = std::uint64_t __attribute__((vector_size(64)));  // one cache line: a register with AVX-512, two with AVX2

constexpr size_t kLinesAtOnce = 8;
constexpr int kPasses = 5;

// The sum of `places` parts of `lines` lines each, which follow one another.
template <size_t kPlaces>
[[gnu::always_inline]] inline std::uint64_t SumOf(const Line* from, size_t lines) {
  Line sums[kLinesAtOnce] = {};
  const size_t part = lines / kPlaces / kLinesAtOnce * kLinesAtOnce;
  for (size_t at = 0; at < part; at += kLinesAtOnce)
    for (size_t place = 0; place < kPlaces; ++place)
      for (size_t i = 0; i < kLinesAtOnce; ++i) sums[i] += from[place * part + at + i];
  for (size_t at = kPlaces * part; at < lines; ++at) sums[0] += from[at];
  for (size_t i = 1; i < kLinesAtOnce; ++i) sums[0] += sums[i];
  std::uint64_t sum = 0;
  for (size_t i = 0; i < sizeof(Line) / sizeof(sum); ++i) sum += sums[0][i];
  return sum;
}

[[gnu::target_clones("avx512f", "avx2", "default")]] std::uint64_t Sum1(const Line* from, size_t lines) { return SumOf<1>(from, lines); }
[[gnu::target_clones("avx512f", "avx2", "default")]] std::uint64_t Sum2(const Line* from, size_t lines) { return SumOf<2>(from, lines); }
[[gnu::target_clones("avx512f", "avx2", "default")]] std::uint64_t Sum4(const Line* from, size_t lines) { return SumOf<4>(from, lines); }
[[gnu::target_clones("avx512f", "avx2", "default")]] std::uint64_t Sum8(const Line* from, size_t lines) { return SumOf<8>(from, lines); }

using Sum = std::uint64_t (*)(const Line*, size_t);

// Seconds of one pass over all of it, from when all threads are there until the last is done.
double Pass(const std::vector<Line*>& parts, size_t lines, Sum sum) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point start, end;
  std::barrier begins(static_cast<std::ptrdiff_t>(parts.size()), [&]() noexcept { start = Clock::now(); });
  std::barrier ends(static_cast<std::ptrdiff_t>(parts.size()), [&]() noexcept { end = Clock::now(); });
  std::vector<std::uint64_t> sums(parts.size());
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < parts.size(); ++i)
    threads.emplace_back([&, i] {
      begins.arrive_and_wait();
      sums[i] = sum(parts[i], lines);
      ends.arrive_and_wait();
    });
  threads.clear();
  for (const std::uint64_t got : sums)
    if (got != lines * sizeof(Line) / sizeof(std::uint64_t)) std::exit(1);  // every number was read: each is 1
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: %s BYTES [THREADS]\n", argv[0]), 2;
  const size_t bytes = std::strtoull(argv[1], nullptr, 10), count = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2;
  const size_t lines = bytes / sizeof(Line) / count;  // of each thread
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || lines == 0) return std::fprintf(stderr, "no memory of %zu bytes\n", bytes), 1;
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::fill_n(static_cast<std::uint64_t*>(memory), bytes / sizeof(std::uint64_t), 1);
  std::vector<Line*> parts;
  for (size_t i = 0; i < count; ++i) parts.push_back(static_cast<Line*>(memory) + i * lines);
  const double scale = static_cast<double>(bytes) / static_cast<double>(count * lines * sizeof(Line));  // the rest that no thread reads
  while (std::getchar() != EOF) {
    double best = 1e9;
    for (const Sum sum : {Sum1, Sum2, Sum4, Sum8})
      for (int pass = 0; pass < kPasses; ++pass) best = std::min(best, Pass(parts, lines, sum));
    std::printf("%.6f\n", scale * best);
    std::fflush(stdout);
  }
}
