# LibTorch as the Python wheel ships it. find_package(Torch) of the CUDA wheel wants a CUDA toolkit; asking Python for the path does not.
# The CUDA back end is not linked: a server with a CUDA device opens libtorch_cuda.so at start (server/tensor/device.cc).
set(FLUOROSCOPE_PYTHON ${CMAKE_SOURCE_DIR}/.venv/bin/python CACHE FILEPATH "The Python whose torch wheel is linked")
execute_process(
  COMMAND ${FLUOROSCOPE_PYTHON} -c "import importlib.util, os; print(os.path.dirname(importlib.util.find_spec('torch').origin))"
  OUTPUT_VARIABLE TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing ERROR_VARIABLE torch_error)
if(torch_missing)
  message(FATAL_ERROR "No torch in ${FLUOROSCOPE_PYTHON}. Run scripts/setup, or set -DFLUOROSCOPE_PYTHON=... (${torch_error})")
endif()
message(STATUS "LibTorch: ${TORCH_DIR}")

add_library(fluoroscope_torch INTERFACE)
add_library(fluoroscope::torch ALIAS fluoroscope_torch)
# -idirafter: LibTorch bundles an old protobuf and a newer fmt; the system's headers must win.
target_compile_options(fluoroscope_torch INTERFACE
  "SHELL:-idirafter ${TORCH_DIR}/include" "SHELL:-idirafter ${TORCH_DIR}/include/torch/csrc/api/include")
target_link_libraries(fluoroscope_torch INTERFACE ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so)
file(GLOB TORCH_NVIDIA_DIRS LIST_DIRECTORIES true ${TORCH_DIR}/../nvidia/*/lib)
set(TORCH_RPATH ${TORCH_DIR}/lib ${TORCH_NVIDIA_DIRS})
target_link_options(fluoroscope_torch INTERFACE "LINKER:-rpath,$<JOIN:${TORCH_RPATH},:>" "LINKER:--allow-shlib-undefined")

# ATen's headers take 6 s a file; precompiled once and reused they take 1 s.
file(WRITE ${CMAKE_BINARY_DIR}/torch_pch.cc "")
add_library(fs_torch_pch OBJECT ${CMAKE_BINARY_DIR}/torch_pch.cc)
target_link_libraries(fs_torch_pch PRIVATE fluoroscope::torch)
target_precompile_headers(fs_torch_pch PRIVATE <ATen/ATen.h> <memory> <string> <vector> <optional>)
function(fs_use_torch_pch target)
  target_precompile_headers(${target} REUSE_FROM fs_torch_pch)
endfunction()
