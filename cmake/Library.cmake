function(fs_compile_apart)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# fs_library(base SOURCES a.cc b.cc DEPS absl::status fluoroscope::api)  ->  fluoroscope::base
# One static library per folder of server/. DEPS are public: what a header includes, its users need too.
# APART: sources with file-local names that a neighbour has too; they are compiled by themselves where others are compiled together.
function(fs_library name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;APART;DEPS" ${ARGN})
  fs_compile_apart(${ARG_APART})
  list(APPEND ARG_SOURCES ${ARG_APART})
  if(ARG_SOURCES)
    add_library(fs_${name} STATIC ${ARG_SOURCES})
    set(visibility PUBLIC)
  else()
    add_library(fs_${name} INTERFACE)
    set(visibility INTERFACE)
  endif()
  target_include_directories(fs_${name} ${visibility} ${CMAKE_SOURCE_DIR}/server)
  target_link_libraries(fs_${name} ${visibility} ${ARG_DEPS})
  if(ARG_TORCH)
    target_link_libraries(fs_${name} PUBLIC fluoroscope::torch)
    fs_use_torch_pch(fs_${name})
  endif()
  add_library(fluoroscope::${name} ALIAS fs_${name})
endfunction()

add_custom_target(tests)  # all GoogleTest binaries and what they need, nothing else

# fs_test(base_test SOURCES a_test.cc APART b_test.cc DEPS fluoroscope::base): a GoogleTest binary, each test case known to ctest.
function(fs_test name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;APART;DEPS" ${ARGN})
  fs_compile_apart(${ARG_APART})
  list(APPEND ARG_SOURCES ${ARG_APART})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/server ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  if(ARG_TORCH)
    fs_use_torch_pch(${name})
  endif()
  add_dependencies(tests ${name})
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300)
endfunction()
