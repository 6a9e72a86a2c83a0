#include "tensor/compute_threads.h"

#include <ATen/Parallel.h>
#include <pthread.h>
#include <sched.h>

#include <vector>

namespace fluoroscope::tensor {

void ComputeAlone() {
  (void)at::get_num_threads();  // its first call in a thread would undo the next line
  at::set_num_threads(1);
}

void PlaceComputeThreads() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  const int64_t threads = at::get_num_threads();
  if (threads < 2 || static_cast<size_t>(threads) != cores.size()) return;
  // One index a thread: at::parallel_for deals them out evenly.
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t) {
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(cores[static_cast<size_t>(begin)], &own);
    pthread_setaffinity_np(pthread_self(), sizeof(own), &own);  // a wish; without it everything works
  });
}

}  // namespace fluoroscope::tensor
