// Where LibTorch's compute threads run.
#pragma once

namespace fluoroscope::tensor {

// Gives the calling thread and the OpenMP threads that work for it a core each. Call on the executor's thread, before its first product.
// Does nothing unless there are exactly as many compute threads as cores this process may use: then each core has one of them anyway, and
// fixing that keeps the kernel from waking two on one core, which it was seen to do after a pause (a 14-token forward took 65 ms instead of
// 33). Other threads are not touched.
void PlaceComputeThreads();

// The calling thread computes without helpers from now on: a second thread with OpenMP threads of its own would be more threads than cores,
// and libgomp then stops spinning altogether (a third of a short forward was lost to that). LibTorch has no way to say this of one thread
// alone: afterwards the executor's thread has to set the number for all others again (at::set_num_threads).
void ComputeAlone();

}  // namespace fluoroscope::tensor
