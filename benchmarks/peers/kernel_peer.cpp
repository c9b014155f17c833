// A matrix product, y [m, n] = x [m, k] · Wᵀ + b, by oneDNN (-DPEER_ONEDNN) or OpenBLAS (-DPEER_OPENBLAS), as a contestant of the suite
// (benchmarks/contestants/protocol.ts): JSON lines on standard input and output. Weights are brought into the library's own layout once, where it has one.
//
//   kernel_peer FOLDER f32|bf16 M N K     with x.f32, w.f32 and b.f32 in the folder; product.f32 is written there
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(PEER_ONEDNN)
#include <dnnl.hpp>
#else
#include <cblas.h>
#endif

namespace {

std::vector<float> read(const std::string& path, size_t count) {
  std::vector<float> values(count);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(float)))) {
    throw std::runtime_error("cannot read " + path);
  }
  return values;
}

double seconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct Product {
  int64_t m, n, k;
  bool bf16;
  std::vector<float> x, w, b, y;
};

#if defined(PEER_ONEDNN)

// The computation, with everything but the product itself done: what it returns runs once.
std::function<void()> prepare(Product& p) {
  using namespace dnnl;
  using tag = memory::format_tag;
  const auto type = p.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const auto f32 = memory::data_type::f32;
  static engine cpu(engine::kind::cpu, 0);
  static stream queue(cpu);
  const memory::dims x_dims{p.m, p.k}, w_dims{p.n, p.k}, b_dims{p.n}, y_dims{p.m, p.n};
  const inner_product_forward::desc desc(prop_kind::forward_inference, {x_dims, type, tag::ab}, {w_dims, type, tag::any},
                                         {b_dims, f32, tag::a}, {y_dims, f32, tag::ab});
  const inner_product_forward::primitive_desc description(desc, cpu);
  const auto brought = [&](std::vector<float>& values, const memory::dims& dims, tag layout, const memory::desc& wanted) {
    memory from({dims, f32, layout}, cpu, values.data()), to(wanted, cpu);
    reorder(from, to).execute(queue, from, to);
    queue.wait();
    return to;
  };
  const memory x = brought(p.x, x_dims, tag::ab, description.src_desc());
  const memory w = brought(p.w, w_dims, tag::ab, description.weights_desc());
  const memory b = brought(p.b, b_dims, tag::a, description.bias_desc());
  const memory y({y_dims, f32, tag::ab}, cpu, p.y.data());
  const inner_product_forward product(description);
  return [product, x, w, b, y] {
    product.execute(queue, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_BIAS, b}, {DNNL_ARG_DST, y}});
    queue.wait();
  };
}

#else

std::function<void()> prepare(Product& p) {
  if (p.bf16) throw std::runtime_error("OpenBLAS is measured in f32 only");
  return [&p] {
    const auto [m, n, k] = std::array{static_cast<int>(p.m), static_cast<int>(p.n), static_cast<int>(p.k)};
    for (int64_t i = 0; i < p.m; ++i) std::copy(p.b.begin(), p.b.end(), p.y.begin() + i * p.n);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, p.x.data(), k, p.w.data(), k, 1.0f, p.y.data(), n);
  };
}

#endif

void serve(const std::vector<std::string>& arguments) {
  if (arguments.size() != 5) throw std::runtime_error("expected FOLDER f32|bf16 M N K");
  const std::string& folder = arguments[0];
  Product p{std::stoll(arguments[2]), std::stoll(arguments[3]), std::stoll(arguments[4]), arguments[1] == "bf16", {}, {}, {}, {}};
  p.x = read(folder + "/x.f32", static_cast<size_t>(p.m * p.k));
  p.w = read(folder + "/w.f32", static_cast<size_t>(p.n * p.k));
  p.b = read(folder + "/b.f32", static_cast<size_t>(p.n));
  p.y.resize(static_cast<size_t>(p.m * p.n));
  std::function<void()> run;
  const double load = seconds_of([&] { run = prepare(p); });
  const double first = seconds_of(run);
  std::ofstream(folder + "/product.f32", std::ios::binary)
      .write(reinterpret_cast<const char*>(p.y.data()), static_cast<std::streamsize>(p.y.size() * sizeof(float)));
  std::printf("{\"type\":\"ready\",\"loadSeconds\":%.9f,\"works\":{\"product\":{\"firstSeconds\":%.9f}}}\n", load, first);
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line) && line != "end";) {
    std::printf("{\"type\":\"sample\",\"seconds\":%.9f}\n", seconds_of(run));
    std::fflush(stdout);
  }
  std::printf("{\"type\":\"end\",\"peakBytes\":0}\n");
}

}  // namespace

int main(int count, char** values) {
  try {
    serve({values + 1, values + count});
    return 0;
  } catch (const std::exception& error) {
    std::string message = error.what();
    for (char& c : message) c = c == '"' || c == '\\' || static_cast<unsigned char>(c) < 32 ? ' ' : c;
    std::printf("{\"type\":\"error\",\"message\":\"%s\"}\n", message.c_str());
    return 1;
  }
}
