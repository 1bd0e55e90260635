// The renderer's contract in plain C++, the bar that benchmarks/render.py measures the Python backends against.
//
// Triangle ids come from the float64 sums written down in `aboutface.render.rasterize`, so they equal those of every
// backend; that needs -ffp-contract=off. Triangles with a corner behind the camera are counted and not drawn: the
// benchmark's scenes have none. Buffers are dense, row-major, float32, ids int32, faces int64.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

constexpr double NEAR_W = 1e-6, FARTHEST = 1e7;

struct Screen {
  double x, y, z, r;  // pixels, z / w, 1 / w; x is NaN where the vertex cannot be projected
};

struct Shape {
  int64_t batch, vertices, faces, height, width;
};

template <typename Work>
void each_item(int64_t batch, int64_t threads, Work work) {
  threads = std::min(threads, batch);
  if (threads <= 1) {
    for (int64_t item = 0; item < batch; ++item) work(item);
    return;
  }
  std::vector<std::thread> others;
  auto stride = [=](int64_t first) {
    for (int64_t item = first; item < batch; item += threads) work(item);
  };
  for (int64_t first = 1; first < threads; ++first) others.emplace_back(stride, first);
  stride(0);
  for (auto& other : others) other.join();
}

void to_screen(const float* clip, const Shape& shape, Screen* out) {
  const double half_width = shape.width / 2.0, half_height = shape.height / 2.0;
  for (int64_t v = 0; v < shape.vertices; ++v) {
    const double x = clip[4 * v], y = clip[4 * v + 1], z = clip[4 * v + 2], w = clip[4 * v + 3];
    const double largest = std::max(std::max(std::fabs(x), std::fabs(y)), std::fabs(z));
    const bool plain = (w > NEAR_W) & (largest <= FARTHEST * w);
    const double column = (x / w + 1) * half_width;
    out[v] = {plain ? column : std::numeric_limits<double>::quiet_NaN(), (y / w + 1) * half_height, z / w, 1 / w};
  }
}

// Whether a point on the edge from a to b belongs to the triangle to its right: left and top edges own theirs.
bool owns(const Screen& a, const Screen& b) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  return dy < 0 || (dy == 0 && dx > 0);
}

// Four pixels at once, two by two: most triangles of a face need no more, and a loop over few pixels is all
// mispredicted branches. Measured 1.4 times as fast as a plain loop on faces, 1.1 times on grids.
typedef double Lanes __attribute__((vector_size(32)));
typedef int64_t Flags __attribute__((vector_size(32)));

inline unsigned lanes_set(Flags flags) {
#ifdef __AVX__
  return unsigned(_mm256_movemask_pd(reinterpret_cast<__m256d>(flags)));
#else
  return unsigned((flags[0] & 1) | (flags[1] & 2) | (flags[2] & 4) | (flags[3] & 8));
#endif
}

int64_t draw(const float* clip, const int64_t* faces, const Shape& shape, Screen* screen, int32_t* ids, float* weights,
             float* depth) {
  const int64_t pixels = shape.height * shape.width;
  const double last_column = double(shape.width - 1), last_row = double(shape.height - 1);
  int64_t left_out = 0;
  to_screen(clip, shape, screen);
  std::fill(ids, ids + pixels, -1);
  std::fill(weights, weights + 3 * pixels, 0.0f);
  std::fill(depth, depth + pixels, std::numeric_limits<float>::infinity());
  for (int64_t f = 0; f < shape.faces; ++f) {
    const Screen& a = screen[faces[3 * f]];
    const Screen* pb = &screen[faces[3 * f + 1]];
    const Screen* pc = &screen[faces[3 * f + 2]];
    const double first_x = std::ceil(std::max(std::min(std::min(a.x, pb->x), pc->x) - 0.5, 0.0));
    const double last_x = std::floor(std::min(std::max(std::max(a.x, pb->x), pc->x) - 0.5, last_column));
    const double first_y = std::ceil(std::max(std::min(std::min(a.y, pb->y), pc->y) - 0.5, 0.0));
    const double last_y = std::floor(std::min(std::max(std::max(a.y, pb->y), pc->y) - 0.5, last_row));
    const double area = (pb->x - a.x) * (pc->y - a.y) - (pb->y - a.y) * (pc->x - a.x);
    if (std::isnan(area)) {
      ++left_out;
      continue;
    }
    if ((first_x > last_x) | (first_y > last_y) | (area == 0)) continue;
    // Turned so that the edge functions are positive inside; weights go back to the order of `faces`.
    const bool turned = area < 0;
    if (turned) std::swap(pb, pc);
    const Screen &b = *pb, &c = *pc;
    const int second = turned ? 2 : 1, third = turned ? 1 : 2;
    const int left = int(first_x), right = int(last_x), top = int(first_y), bottom = int(last_y);
    for (int row = top; row <= bottom; row += 2) {
      const Lanes y = row + Lanes{0.5, 0.5, 1.5, 1.5}, ay = a.y - y, by = b.y - y, cy = c.y - y;
      for (int column = left; column <= right; column += 2) {
        const Lanes x = column + Lanes{0.5, 1.5, 0.5, 1.5}, ax = a.x - x, bx = b.x - x, cx = c.x - x;
        const Lanes e0 = bx * cy - by * cx, e1 = cx * ay - cy * ax, e2 = ax * by - ay * bx;
        unsigned inside = lanes_set((e0 >= 0) & (e1 >= 0) & (e2 >= 0));
        inside &= (column < right ? 15u : 5u) & (row < bottom ? 15u : 3u);
        if (!inside) continue;
        const Lanes depths = (e0 * a.z + e1 * b.z + e2 * c.z) / (e0 + e1 + e2);
        const Lanes w0 = e0 * a.r, w1 = e1 * b.r, w2 = e2 * c.r, scale = 1 / (w0 + w1 + w2);
        const Lanes m0 = w0 * scale, m1 = w1 * scale, m2 = w2 * scale;
        const unsigned border = lanes_set((e0 == 0) | (e1 == 0) | (e2 == 0));
        for (; inside; inside &= inside - 1) {
          const int i = __builtin_ctz(inside);
          if (border >> i & 1) {
            if ((e0[i] == 0 && !owns(b, c)) || (e1[i] == 0 && !owns(c, a)) || (e2[i] == 0 && !owns(a, b))) continue;
          }
          const float z = float(depths[i]);
          const int64_t pixel = (row + (i >> 1)) * shape.width + column + (i & 1);
          if (!(z < depth[pixel]) | !(z >= -1)) continue;
          depth[pixel] = z;
          ids[pixel] = int32_t(f);
          float* weight = weights + 3 * pixel;
          weight[0] = float(m0[i]);
          weight[second] = float(m1[i]);
          weight[third] = float(m2[i]);
        }
      }
    }
  }
  for (int64_t pixel = 0; pixel < pixels; ++pixel) depth[pixel] = ids[pixel] < 0 ? 1.0f : depth[pixel];
  return left_out;
}

typedef float Float4 __attribute__((vector_size(16), aligned(4), may_alias));

// The weights b of the corners solve sum b p = 0, sum b = 1, where p are the corners in homogeneous pixels measured
// from the pixel. So moving corner i by dp changes a loss with gradient g by -b_i q dp, where g = q p + constant at the
// corners.
void draw_backward(const float* clip, const int64_t* faces, const Shape& shape, const int32_t* ids,
                   const float* grad_weights, const float* grad_depth, float* grad_clip) {
  const double half_width = shape.width / 2.0, half_height = shape.height / 2.0;
  std::fill(grad_clip, grad_clip + 4 * shape.vertices, 0.0f);
  for (int64_t row = 0; row < shape.height; ++row) {
    const double y = half_height - (row + 0.5);
    for (int64_t column = 0; column < shape.width; ++column) {
      const int64_t pixel = row * shape.width + column;
      if (ids[pixel] < 0) continue;
      const double x = half_width - (column + 0.5);
      const int64_t* face = faces + 3 * int64_t(ids[pixel]);
      const float *u = clip + 4 * face[0], *v = clip + 4 * face[1], *t = clip + 4 * face[2];
      const double ux = u[0] * half_width + u[3] * x, uy = u[1] * half_height + u[3] * y;
      const double vx = v[0] * half_width + v[3] * x, vy = v[1] * half_height + v[3] * y;
      const double tx = t[0] * half_width + t[3] * x, ty = t[1] * half_height + t[3] * y;
      const double e0 = vx * ty - vy * tx, e1 = tx * uy - ty * ux, e2 = ux * vy - uy * vx;
      const double z = e0 * u[2] + e1 * v[2] + e2 * t[2], w = e0 * u[3] + e1 * v[3] + e2 * t[3], sum = e0 + e1 + e2;
      const double scale = 1 / sum, over = 1 / w;
      const double by_z = grad_depth[pixel] * over * sum, by_w = -by_z * z * over;
      const float* given = grad_weights + 3 * pixel;
      const double g0 = given[0] + by_z * u[2] + by_w * u[3];
      const double g1 = given[1] + by_z * v[2] + by_w * v[3] - g0, g2 = given[2] + by_z * t[2] + by_w * t[3] - g0;
      const double qx = (g1 * (ty - uy) - g2 * (vy - uy)) * scale, qy = (g2 * (vx - ux) - g1 * (tx - ux)) * scale;
      const Float4 common = {float(-qx * half_width), float(-qy * half_height), float(by_z),
                             float(by_w - qx * x - qy * y)};
      *reinterpret_cast<Float4*>(grad_clip + 4 * face[0]) += float(e0 * scale) * common;
      *reinterpret_cast<Float4*>(grad_clip + 4 * face[1]) += float(e1 * scale) * common;
      *reinterpret_cast<Float4*>(grad_clip + 4 * face[2]) += float(e2 * scale) * common;
    }
  }
}

template <int CHANNELS>
void mix(const float* values, const int64_t* faces, int64_t pixels, int64_t channels, const int32_t* ids,
         const float* weights, float* picture) {
  const int64_t count = CHANNELS ? CHANNELS : channels;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    float* out = picture + pixel * count;
    if (ids[pixel] < 0) {
      for (int64_t i = 0; i < count; ++i) out[i] = 0;
      continue;
    }
    const int64_t* face = faces + 3 * int64_t(ids[pixel]);
    const float *a = values + face[0] * count, *b = values + face[1] * count, *c = values + face[2] * count;
    const float *weight = weights + 3 * pixel, wa = weight[0], wb = weight[1], wc = weight[2];
    for (int64_t i = 0; i < count; ++i) out[i] = wa * a[i] + wb * b[i] + wc * c[i];
  }
}

template <int CHANNELS>
void mix_backward(const float* values, const int64_t* faces, int64_t pixels, int64_t vertices, int64_t channels,
                  const int32_t* ids, const float* weights, const float* grad, float* grad_values,
                  float* grad_weights) {
  const int64_t count = CHANNELS ? CHANNELS : channels;
  std::fill(grad_values, grad_values + vertices * count, 0.0f);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    float* to_weight = grad_weights + 3 * pixel;
    to_weight[0] = to_weight[1] = to_weight[2] = 0;
    if (ids[pixel] < 0) continue;
    const int64_t* face = faces + 3 * int64_t(ids[pixel]);
    for (int k = 0; k < 3; ++k) {
      const float weight = weights[3 * pixel + k], *value = values + face[k] * count, *g = grad + pixel * count;
      float *to_value = grad_values + face[k] * count, sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        to_value[i] += weight * g[i];
        sum += value[i] * g[i];
      }
      to_weight[k] = sum;
    }
  }
}

}  // namespace

extern "C" {

// Shape: batch, vertices, faces, height, width. Faces are shared by the batch. Returns how many triangles were left
// out.
int64_t yardstick_rasterize(const Shape* shape, const float* clip, const int64_t* faces, int32_t* ids, float* weights,
                            float* depth, int64_t threads) {
  const int64_t pixels = shape->height * shape->width;
  std::vector<int64_t> left_out(shape->batch);
  each_item(shape->batch, threads, [=, &left_out](int64_t item) {
    thread_local std::vector<Screen> screen;
    screen.resize(shape->vertices);
    left_out[item] = draw(clip + item * shape->vertices * 4, faces, *shape, screen.data(), ids + item * pixels,
                          weights + item * pixels * 3, depth + item * pixels);
  });
  int64_t total = 0;
  for (int64_t count : left_out) total += count;
  return total;
}

void yardstick_rasterize_backward(const Shape* shape, const float* clip, const int64_t* faces, const int32_t* ids,
                                  const float* grad_weights, const float* grad_depth, float* grad_clip,
                                  int64_t threads) {
  const int64_t pixels = shape->height * shape->width;
  each_item(shape->batch, threads, [=](int64_t item) {
    draw_backward(clip + item * shape->vertices * 4, faces, *shape, ids + item * pixels,
                  grad_weights + item * pixels * 3, grad_depth + item * pixels, grad_clip + item * shape->vertices * 4);
  });
}

void yardstick_interpolate(const Shape* shape, int64_t channels, const float* values, const int64_t* faces,
                           const int32_t* ids, const float* weights, float* picture, int64_t threads) {
  const int64_t pixels = shape->height * shape->width;
  each_item(shape->batch, threads, [=](int64_t item) {
    (channels == 3 ? mix<3> : mix<0>)(values + item * shape->vertices * channels, faces, pixels, channels,
                                      ids + item * pixels, weights + item * pixels * 3,
                                      picture + item * pixels * channels);
  });
}

void yardstick_interpolate_backward(const Shape* shape, int64_t channels, const float* values, const int64_t* faces,
                                    const int32_t* ids, const float* weights, const float* grad, float* grad_values,
                                    float* grad_weights, int64_t threads) {
  const int64_t pixels = shape->height * shape->width;
  each_item(shape->batch, threads, [=](int64_t item) {
    (channels == 3 ? mix_backward<3> : mix_backward<0>)(values + item * shape->vertices * channels, faces, pixels,
                                                        shape->vertices, channels, ids + item * pixels,
                                                        weights + item * pixels * 3, grad + item * pixels * channels,
                                                        grad_values + item * shape->vertices * channels,
                                                        grad_weights + item * pixels * 3);
  });
}
}
