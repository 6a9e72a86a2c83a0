# fs_proto(target SERVICES a.proto ... MESSAGES b.proto ...): a static library of generated code. Generated headers are included
# as "fluoroscope/v1/plan.pb.h". Our warnings do not apply to them.
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
add_custom_target(generated)  # all generated code, not compiled: what clang-tidy needs
function(fs_proto target)
  cmake_parse_arguments(ARG "" "" "SERVICES;MESSAGES" ${ARGN})
  set(out ${CMAKE_BINARY_DIR}/proto)
  file(MAKE_DIRECTORY ${out})
  set(sources "")
  foreach(proto ${ARG_SERVICES} ${ARG_MESSAGES})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    set(generated ${out}/${stem}.pb.cc ${out}/${stem}.pb.h)  # headers too: what includes them must be compiled again
    set(command protobuf::protoc -I ${CMAKE_SOURCE_DIR}/proto --cpp_out=${out})
    if(proto IN_LIST ARG_SERVICES)
      list(APPEND generated ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h)
      list(APPEND command --grpc_out=${out} --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(OUTPUT ${generated} COMMAND ${command} ${CMAKE_SOURCE_DIR}/proto/${proto}
      DEPENDS ${CMAKE_SOURCE_DIR}/proto/${proto})
    list(APPEND sources ${generated})
  endforeach()
  add_custom_target(${target}_generated DEPENDS ${sources})
  add_dependencies(generated ${target}_generated)
  add_library(${target} STATIC ${sources})
  set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)  # each generated file defines the same names
  target_include_directories(${target} SYSTEM PUBLIC ${out})
  target_compile_options(${target} PRIVATE -w)
  if(FLUOROSCOPE_SANITIZE AND NOT FLUOROSCOPE_FUZZ)
    # As Debian's libprotobuf, which it calls, it is not instrumented: four times as fast to compile. Fuzzers want to see its branches.
    target_compile_options(${target} PRIVATE -fno-sanitize=all -O0 -g0)
  endif()
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf)
  if(ARG_SERVICES)
    target_link_libraries(${target} PUBLIC gRPC::grpc++)
  endif()
  add_library(fluoroscope::${target} ALIAS ${target})
endfunction()
