"""Compiled loops of the CPU backend.

All sums but those of attributes are float64, and none may be fused (no fastmath): triangle ids agree with the other
backends bit for bit.
Kernels with first and end items and rows work on these of a batch, the others on one item. Names in common: clip
(B, V, 4), float32 or float64; faces (B or 1, F, 3) int64; ids (B, H, W) int32; and of one item points (V, 4) float64,
see `project`, and corners (F, 3).
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .screen import FARTHEST, LARGEST, NEAR_W

UNUSABLE = 2
"""Side of a line on which a vertex lies that cannot be drawn."""

kernel: Any = njit(nogil=True, cache=True, error_model="numpy")


@kernel
def rasterize(clip, faces, painter, first_item, end_item, first_row, end_row, nearest, ids, barycentric, depth):
    """Fill ids, barycentric (B, H, W, 3) and depth (B, H, W); nearest (B, H, W) float32 may be depth itself."""
    height, width = ids.shape[1], ids.shape[2]
    points = np.empty((clip.shape[1], 4))
    for item in range(first_item, end_item):
        corners = faces[item if faces.shape[0] > 1 else 0]
        all_plain = project(clip[item], height, width, points)
        nearest[item, first_row:end_row] = np.inf
        ids[item, first_row:end_row] = -1
        barycentric[item, first_row:end_row] = 0
        draw(
            clip[item],
            points,
            all_plain,
            corners,
            painter,
            first_row,
            end_row,
            nearest[item],
            ids[item],
            barycentric[item],
        )
        finish(clip[item], points, all_plain, corners, ids[item], first_row, end_row, barycentric[item], depth[item])


@kernel
def project(clip, height, width, points):
    """Fill `points` with pixels x and y, z / w, 1 / w of each vertex, NaN where it is not plain; whether all are."""
    half_width, half_height = width / 2, height / 2
    all_plain = True
    for v in range(clip.shape[0]):
        x, y, z, w = np.float64(clip[v, 0]), np.float64(clip[v, 1]), np.float64(clip[v, 2]), np.float64(clip[v, 3])
        limit = min(FARTHEST * w, LARGEST)
        safe = (w > NEAR_W) & (w <= LARGEST) & (abs(x) <= limit) & (abs(y) <= limit) & (abs(z) <= limit)
        all_plain &= safe
        points[v, 0] = (x / w + 1) * half_width if safe else np.nan
        points[v, 1] = (y / w + 1) * half_height if safe else np.nan
        points[v, 2] = z / w if safe else np.nan
        points[v, 3] = 1 / w if safe else np.nan
    return all_plain


@kernel
def draw(clip, points, all_plain, corners, painter, first_row, end_row, nearest, ids, barycentric):
    """Ids of the triangles seen, their depths, `nearest` (H, W) float32, and barycentrics of the plain ones."""
    height, width = ids.shape
    last_column, first_line, last_line = width - 1.0, np.float64(first_row), end_row - 1.0
    for f in range(corners.shape[0]):
        # Unsigned: numba would otherwise test every index for being negative.
        a, b, c = np.uint64(corners[f, 0]), np.uint64(corners[f, 1]), np.uint64(corners[f, 2])
        ax, bx, cx = points[a, 0], points[b, 0], points[c, 0]
        ay, by, cy = points[a, 1], points[b, 1], points[c, 1]
        if not all_plain and math.isnan(ax + bx + cx):
            draw_clipped(clip, points, a, b, c, f, painter, height, first_row, end_row, nearest, ids)
            continue
        left, right = centres_between(ax, bx, cx, 0.0, last_column)
        top, bottom = centres_between(ay, by, cy, first_line, last_line)
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if (right < left) | (bottom < top) | (area == 0):
            continue
        # Turned so that the edge functions are positive inside; barycentrics keep the order of the corners.
        second, third = 1, 2
        if area < 0:
            b, c = c, b
            bx, cx = cx, bx
            by, cy = cy, by
            second, third = 2, 1
        triangle = ax, ay, points[a, 2], bx, by, points[b, 2], cx, cy, points[c, 2]
        nearness = points[a, 3], points[b, 3], points[c, 3]
        for row in range(top, bottom + 1, 2):
            rows = 15 if row < bottom else 3
            for column in range(left, right + 1, 2):
                columns = 15 if column < right else 5
                inside = inside_2x2(ax, ay, bx, by, cx, cy, column, row) & rows & columns  # pyright: ignore
                while inside != 0:
                    bit = inside & -inside
                    inside -= bit
                    y, x = row + np.int64(bit >= 4), column + np.int64((bit & 10) != 0)
                    e0, e1, e2 = offer(triangle, f, painter, y, x, nearest, ids)
                    if e0 >= 0:
                        l0, l1, l2 = e0 * nearness[0], e1 * nearness[1], e2 * nearness[2]
                        scale = 1 / (l0 + l1 + l2)
                        barycentric[y, x, 0] = l0 * scale
                        barycentric[y, x, second] = l1 * scale
                        barycentric[y, x, third] = l2 * scale


@intrinsic  # which hands it the context as a first argument
def inside_2x2(_, ax, ay, bx, by, cx, cy, column, row):
    """Of the pixel at (column, row), right of it, below, and both: 1, 2, 4, 8 added for no negative edge function.

    Four at once, in one vector: most triangles of a face need no more pixels, and the time goes into jumps that the
    processor cannot foresee.
    """
    signature = types.int64(*[types.float64] * 6, types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.DoubleType(), 4)
        unset, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        to_all = ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)

        def spread(value):
            return builder.shuffle_vector(builder.insert_element(unset, value, first), unset, to_all)

        def centres(index, offsets):
            return builder.fadd(spread(builder.sitofp(index, ir.DoubleType())), ir.Constant(vector, offsets))

        *corners, column, row = arguments
        centre = centres(column, [0.5, 1.5, 0.5, 1.5]), centres(row, [0.5, 0.5, 1.5, 1.5])
        ax, ay, bx, by, cx, cy = (builder.fsub(spread(v), centre[i % 2]) for i, v in enumerate(corners))
        inside = ir.Constant(ir.VectorType(ir.IntType(1), 4), [1] * 4)
        for px, py, qx, qy in ((bx, by, cx, cy), (cx, cy, ax, ay), (ax, ay, bx, by)):
            edge = builder.fsub(builder.fmul(px, qy), builder.fmul(py, qx))
            inside = builder.and_(inside, builder.fcmp_ordered(">=", edge, ir.Constant(vector, [0.0] * 4)))
        return builder.zext(builder.bitcast(inside, ir.IntType(4)), ir.IntType(64))

    return signature, generate


@kernel
def centres_between(a, b, c, first, last):
    """First and last pixel from `first` to `last` whose centres lie between three positions."""
    low, high = (a, b) if a < b else (b, a)
    low = (c if c < low else low) - 0.5
    high = (c if c > high else high) - 0.5
    return math.ceil(first if low < first else low), math.floor(last if high > last else high)


@kernel
def offer(triangle, f, painter, row, column, nearest, ids):
    """Take a pixel with no negative edge function if it is the triangle's, and the triangle the nearest so far.

    Returns the edge functions, or the first as -1 if it was not taken.
    """
    ax, ay, az, bx, by, bz, cx, cy, cz = triangle
    x, y = column + 0.5, row + 0.5
    e0 = (bx - x) * (cy - y) - (by - y) * (cx - x)
    e1 = (cx - x) * (ay - y) - (cy - y) * (ax - x)
    e2 = (ax - x) * (by - y) - (ay - y) * (bx - x)
    if (
        (e0 == 0 and not owns(cx - bx, cy - by))
        or (e1 == 0 and not owns(ax - cx, ay - cy))
        or (e2 == 0 and not owns(bx - ax, by - ay))
    ):
        return -1.0, e1, e2
    depth = np.float32((e0 * az + e1 * bz + e2 * cz) / (e0 + e1 + e2))
    if not ((depth >= -1) & (painter | (depth < nearest[row, column]))):
        return -1.0, e1, e2
    nearest[row, column] = depth
    ids[row, column] = f
    return e0, e1, e2


@kernel
def owns(dx, dy):
    """Top-left rule: whether an edge with this direction owns the pixel centres on it."""
    return dy < 0 or (dy == 0 and dx > 0)


@kernel
def draw_clipped(clip, points, a, b, c, f, painter, height, first_row, end_row, nearest, ids):
    """One triangle with a vertex that is not plain, in homogeneous coordinates (Olano and Greer 1997)."""
    width = ids.shape[1]
    ax, ay, aw = np.float64(clip[a, 0]), np.float64(clip[a, 1]), np.float64(clip[a, 3])
    bx, by, bw = np.float64(clip[b, 0]), np.float64(clip[b, 1]), np.float64(clip[b, 3])
    cx, cy, cw = np.float64(clip[c, 0]), np.float64(clip[c, 1]), np.float64(clip[c, 3])
    for v in (a, b, c):
        for i in range(4):
            if not abs(clip[v, i]) <= LARGEST:
                return
    if not (aw > 0 or bw > 0 or cw > 0):
        return
    area = aw * (bx * cy - by * cx) + bw * (cx * ay - cy * ax) + cw * (ax * by - ay * bx)
    if not abs(area) > 0:
        return
    left, right, top, bottom = clipped_box(clip, a, b, c, height, width)
    top, bottom = max(top, first_row), min(bottom, end_row - 1)
    if area < 0:
        b, c = c, b
    az, bz, cz = np.float64(clip[a, 2]), np.float64(clip[b, 2]), np.float64(clip[c, 2])
    bw, cw = np.float64(clip[b, 3]), np.float64(clip[c, 3])
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            x, y = column + 0.5, row + 0.5
            e0, dx0, dy0 = homogeneous_edge(clip, points, b, c, x, y, height, width)
            e1, dx1, dy1 = homogeneous_edge(clip, points, c, a, x, y, height, width)
            e2, dx2, dy2 = homogeneous_edge(clip, points, a, b, x, y, height, width)
            if not (e0 >= 0 and e1 >= 0 and e2 >= 0):
                continue
            if (e0 == 0 and not owns(dx0, dy0)) or (e1 == 0 and not owns(dx1, dy1)) or (e2 == 0 and not owns(dx2, dy2)):
                continue
            nearness = e0 * aw + e1 * bw + e2 * cw
            if not nearness > 0:
                continue
            depth = np.float32((e0 * az + e1 * bz + e2 * cz) / nearness)
            if depth >= -1 and (painter or depth < nearest[row, column]):
                nearest[row, column] = depth
                ids[row, column] = f


@kernel
def homogeneous_edge(clip, points, a, b, x, y, height, width):
    """Edge function at a point, and the edge's direction; between plain vertices the sums of `draw`, scaled."""
    aw, bw = np.float64(clip[a, 3]), np.float64(clip[b, 3])
    if not math.isnan(points[a, 0]) and not math.isnan(points[b, 0]):
        ax, ay, bx, by = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
        return ((ax - x) * (by - y) - (ay - y) * (bx - x)) * (aw * bw), bx - ax, by - ay
    ax, bx = (np.float64(clip[a, 0]) + aw) * (width / 2), (np.float64(clip[b, 0]) + bw) * (width / 2)
    ay, by = (np.float64(clip[a, 1]) + aw) * (height / 2), (np.float64(clip[b, 1]) + bw) * (height / 2)
    edge = (ax - x * aw) * (by - y * bw) - (ay - y * aw) * (bx - x * bw)
    return edge, bx * aw - ax * bw, by * aw - ay * bw


@kernel
def clipped_box(clip, a, b, c, height, width):
    """Left, right, top, bottom pixels of what lies behind the near plane of a triangle; a little generous."""
    low_x, high_x, low_y, high_y = np.inf, -np.inf, np.inf, -np.inf
    largest = max(abs(clip[a, 3]), abs(clip[b, 3]), abs(clip[c, 3]))
    for start, end in ((a, b), (b, c), (c, a)):
        here = np.float64(clip[start, 2]) + np.float64(clip[start, 3])
        there = np.float64(clip[end, 2]) + np.float64(clip[end, 3])
        share = here / (here - there)
        # The corner itself, and the place where the near plane cuts the side that begins there.
        for part in (0.0, share):
            if (part == 0.0 and here < 0) or (part != 0.0 and (here >= 0) == (there >= 0)):
                continue
            w = clip[start, 3] + part * (np.float64(clip[end, 3]) - clip[start, 3])
            if not w > 1e-12 * largest:
                return 0, width - 1, 0, height - 1
            x = (clip[start, 0] + part * (np.float64(clip[end, 0]) - clip[start, 0])) / w
            y = (clip[start, 1] + part * (np.float64(clip[end, 1]) - clip[start, 1])) / w
            x, y = (x + 1) * (width / 2), (y + 1) * (height / 2)
            low_x, high_x, low_y, high_y = min(low_x, x), max(high_x, x), min(low_y, y), max(high_y, y)
    room_x, room_y = 1 + 1e-6 * max(abs(low_x), abs(high_x)), 1 + 1e-6 * max(abs(low_y), abs(high_y))
    left, right = max(low_x - room_x, 0.0), min(high_x + room_x, np.float64(width))
    top, bottom = max(low_y - room_y, 0.0), min(high_y + room_y, np.float64(height))
    if not (left <= right and top <= bottom):
        return 0, -1, 0, -1
    return int(left), min(int(right), width - 1), int(top), min(int(bottom), height - 1)


@kernel
def finish(clip, points, all_plain, corners, ids, first_row, end_row, barycentric, depth):
    """What `draw` leaves open: depth 1 where nothing is seen, barycentrics of triangles that are not plain, and depth
    in float64, if that is what is wanted.
    """
    height, width = ids.shape
    for row in range(first_row, end_row):
        for column in range(width):
            if ids[row, column] < 0:
                depth[row, column] = 1
    if all_plain and depth.itemsize == 4:
        return
    for row in range(first_row, end_row):
        for column in range(width):
            f = ids[row, column]
            if f < 0:
                continue
            x, y = column + 0.5, row + 0.5
            a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
            l0, l1, l2 = barycentric[row, column, 0], barycentric[row, column, 1], barycentric[row, column, 2]
            if math.isnan(points[a, 0] + points[b, 0] + points[c, 0]):
                e0, _, _ = homogeneous_edge(clip, points, b, c, x, y, height, width)
                e1, _, _ = homogeneous_edge(clip, points, c, a, x, y, height, width)
                e2, _, _ = homogeneous_edge(clip, points, a, b, x, y, height, width)
                whole = e0 + e1 + e2
                l0, l1, l2 = e0 / whole, e1 / whole, e2 / whole
                barycentric[row, column, 0] = l0
                barycentric[row, column, 1] = l1
                barycentric[row, column, 2] = l2
            if depth.itemsize == 8:
                z = l0 * clip[a, 2] + l1 * clip[b, 2] + l2 * clip[c, 2]
                depth[row, column] = z / (l0 * clip[a, 3] + l1 * clip[b, 3] + l2 * clip[c, 3])


@kernel
def rasterize_backward(
    clip, faces, ids, by_barycentric, by_depth, has, first_item, end_item, first_row, end_row, result
):
    """Fill `result` (B, V, 4) with the gradient with respect to clip: see `rasterize_backward` in torch_backend.py.

    Args:
        by_barycentric: (B, H, W, 3) and by_depth: (B, H, W): gradients given; `has`: whether each is.
    """
    height, width = ids.shape[1], ids.shape[2]
    half_width, half_height = width / 2, height / 2
    has_barycentric, has_depth = has
    # In pixels, z and w; and the gradient with respect to that. Read in order once, an item then lies in the cache.
    pixels, out = np.empty((clip.shape[1], 4)), np.empty((clip.shape[1], 4))
    for item in range(first_item, end_item):
        v = clip[item]
        corners = faces[item if faces.shape[0] > 1 else 0]
        out[:] = 0
        for i in range(v.shape[0]):
            pixels[i, 0] = v[i, 0] * half_width
            pixels[i, 1] = v[i, 1] * half_height
            pixels[i, 2] = v[i, 2]
            pixels[i, 3] = v[i, 3]
        for row in range(first_row, end_row):
            y = half_height - (row + 0.5)
            for column in range(width):
                f = ids[item, row, column]
                if f < 0:
                    continue
                x = half_width - (column + 0.5)
                a, b, c = np.uint64(corners[f, 0]), np.uint64(corners[f, 1]), np.uint64(corners[f, 2])
                aw, bw, cw = pixels[a, 3], pixels[b, 3], pixels[c, 3]
                ax, ay = pixels[a, 0] + aw * x, pixels[a, 1] + aw * y
                bx, by = pixels[b, 0] + bw * x, pixels[b, 1] + bw * y
                cx, cy = pixels[c, 0] + cw * x, pixels[c, 1] + cw * y
                l0, l1, l2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
                whole = l0 + l1 + l2
                if whole == 0:
                    continue
                scale = 1 / whole
                # Two divisions side by side: one after the other, they are what takes the time.
                g0, g1, g2, by_z, by_w = 0.0, 0.0, 0.0, 0.0, 0.0
                if has_barycentric:
                    g0 = by_barycentric[item, row, column, 0] * scale
                    g1 = by_barycentric[item, row, column, 1] * scale
                    g2 = by_barycentric[item, row, column, 2] * scale
                    mean = (g0 * l0 + g1 * l1 + g2 * l2) * scale
                    g0, g1, g2 = g0 - mean, g1 - mean, g2 - mean
                if has_depth:
                    az, bz, cz = pixels[a, 2], pixels[b, 2], pixels[c, 2]
                    nearness = 1 / (l0 * aw + l1 * bw + l2 * cw)
                    by_z = by_depth[item, row, column] * nearness
                    depth = (l0 * az + l1 * bz + l2 * cz) * nearness
                    by_w = -by_z * depth
                    g0 += by_z * (az - depth * aw)
                    g1 += by_z * (bz - depth * bw)
                    g2 += by_z * (cz - depth * cw)
                    out[a, 2] += by_z * l0
                    out[b, 2] += by_z * l1
                    out[c, 2] += by_z * l2
                dx, dy = g2 * by - g1 * cy, g1 * cx - g2 * bx
                out[a, 0] += dx
                out[a, 1] += dy
                out[a, 3] += by_w * l0 + dx * x + dy * y
                dx, dy = g0 * cy - g2 * ay, g2 * ax - g0 * cx
                out[b, 0] += dx
                out[b, 1] += dy
                out[b, 3] += by_w * l1 + dx * x + dy * y
                dx, dy = g1 * ay - g0 * by, g0 * bx - g1 * ax
                out[c, 0] += dx
                out[c, 1] += dy
                out[c, 3] += by_w * l2 + dx * x + dy * y
        for i in range(out.shape[0]):
            result[item, i, 0] = out[i, 0] * half_width
            result[item, i, 1] = out[i, 1] * half_height
            result[item, i, 2] = out[i, 2]
            result[item, i, 3] = out[i, 3]


@kernel
def interpolate(attributes, ids, barycentric, faces, first_item, end_item, first_row, end_row, picture):
    """Attributes (B or 1, V, C) to picture (B, H, W, C)."""
    width, channels = ids.shape[2], attributes.shape[2]
    for item in range(first_item, end_item):
        values = attributes[item if attributes.shape[0] > 1 else 0]
        corners = faces[item if faces.shape[0] > 1 else 0]
        picture[item, first_row:end_row] = 0
        for row in range(first_row, end_row):
            for column in range(width):
                f = ids[item, row, column]
                if f < 0:
                    continue
                a, b, c = np.uint64(corners[f, 0]), np.uint64(corners[f, 1]), np.uint64(corners[f, 2])
                u = barycentric[item, row, column, 0]
                v = barycentric[item, row, column, 1]
                w = barycentric[item, row, column, 2]
                i = 0
                # Three at a time, as colours and coordinates come: loops this short cost more than what they do.
                while i + 3 <= channels:
                    picture[item, row, column, i] = u * values[a, i] + v * values[b, i] + w * values[c, i]
                    j = i + 1
                    picture[item, row, column, j] = u * values[a, j] + v * values[b, j] + w * values[c, j]
                    j = i + 2
                    picture[item, row, column, j] = u * values[a, j] + v * values[b, j] + w * values[c, j]
                    i += 3
                while i < channels:
                    picture[item, row, column, i] = u * values[a, i] + v * values[b, i] + w * values[c, i]
                    i += 1


@kernel
def interpolate_backward(
    attributes, ids, barycentric, faces, grad, wanted, first_item, end_item, first_row, end_row, by_attribute, by_weight
):
    """Fill by_attribute (B, V, C), and by_weight (B, H, W, 3), each where wanted."""
    width, channels = ids.shape[2], attributes.shape[2]
    want_attribute, want_weight = wanted
    zero = attributes.dtype.type(0)
    for item in range(first_item, end_item):
        values = attributes[item if attributes.shape[0] > 1 else 0]
        corners = faces[item if faces.shape[0] > 1 else 0]
        out = by_attribute[item if want_attribute else 0]
        if want_attribute:
            out[:] = 0
        for row in range(first_row, end_row):
            for column in range(width):
                f = ids[item, row, column]
                du, dv, dw = zero, zero, zero
                if f >= 0:
                    a, b, c = np.uint64(corners[f, 0]), np.uint64(corners[f, 1]), np.uint64(corners[f, 2])
                    given, weights = grad[item, row, column], barycentric[item, row, column]
                    u, v, w = weights[0], weights[1], weights[2]
                    i = 0
                    while i + 3 <= channels:  # three at a time: see `interpolate`
                        j, k = i + 1, i + 2
                        g, h, l = given[i], given[j], given[k]  # noqa: E741
                        du += g * values[a, i] + h * values[a, j] + l * values[a, k]
                        dv += g * values[b, i] + h * values[b, j] + l * values[b, k]
                        dw += g * values[c, i] + h * values[c, j] + l * values[c, k]
                        if want_attribute:
                            out[a, i] += u * g
                            out[a, j] += u * h
                            out[a, k] += u * l
                            out[b, i] += v * g
                            out[b, j] += v * h
                            out[b, k] += v * l
                            out[c, i] += w * g
                            out[c, j] += w * h
                            out[c, k] += w * l
                        i += 3
                    while i < channels:
                        g = given[i]
                        du += g * values[a, i]
                        dv += g * values[b, i]
                        dw += g * values[c, i]
                        if want_attribute:
                            out[a, i] += u * g
                            out[b, i] += v * g
                            out[c, i] += w * g
                        i += 1
                if want_weight:
                    by_weight[item, row, column, 0] = du
                    by_weight[item, row, column, 1] = dv
                    by_weight[item, row, column, 2] = dw


@kernel
def find_crossings(clip, corners, edges, ids, depth, first_vertex, first_pixel):
    """Members of Crossings of one item, (N, 6) int64: see `find_crossings` in crossings.py, whose sums these are.

    Args:
        clip: (V, 4) of the item; edges: (E, 4) of `mesh_edges`; ids, depth: (H, W).
        first_vertex, first_pixel: those of the item in the whole batch.
    """
    height, width = ids.shape
    points = np.empty((clip.shape[0], 4))
    project(clip, height, width, points)
    low, high = np.inf, -np.inf
    for v in range(points.shape[0]):
        z = points[v, 2]
        if z < low:
            low = z
        if z > high:
            high = z
    room = 1e-4 * max(high - low, 0.0) + 1e-6
    found = np.empty((1024, 6), np.int64)
    distances = np.empty(1024)
    # Number, from 1, of the crossing found between each pixel and the next in its column or row.
    known = np.zeros((height, width, 2), np.int32)
    count = 0
    for e in range(edges.shape[0]):
        start, end = edges[e, 0], edges[e, 1]
        side, other = side_of(clip, points, start, end, edges[e, 2]), side_of(clip, points, start, end, edges[e, 3])
        # A triangle seen edge-on has no side: what is seen of its neighbour ends there.
        if side == UNUSABLE or other == UNUSABLE or side * other < 0 or side + other == 0:
            continue
        ahead, ax, ay, az, bx, by, bz = edge_on_screen(clip, points, start, end, height, width)
        if not ahead:
            continue
        steep = abs(by - ay) >= abs(bx - ax)
        # In what follows u runs along the rows or columns that are crossed, v counts them.
        au, av, bu, bv = (ax, ay, bx, by) if steep else (ay, ax, by, bx)
        across, along = (width, height) if steep else (height, width)
        surface_before = (side + other > 0) == ((bv > av) == steep)
        first = max(0, math.ceil(max(min(av, bv) - 0.5, 0.0)))
        last = math.ceil(min(max(av, bv) - 0.5, np.float64(along)))
        for line in range(first, last):
            position = line + 0.5
            part = (position - av) / (bv - av)
            crossing = au + (bu - au) * part
            # A pixel centre right on the outline counts as after it, as in the top-left rule.
            before = math.ceil(crossing - 0.5) - 1.0
            if not (before >= 0 and before + 1 < across):
                continue
            inner = int(before) if surface_before else int(before) + 1
            outer = int(before) + 1 if surface_before else int(before)
            place = (crossing, position) if steep else (position, crossing)
            here = (line, inner) if steep else (inner, line)
            there = (line, outer) if steep else (outer, line)
            seen, own = between(points, corners, ids, depth, here, there, place, az + (bz - az) * part, room)
            if not seen:
                continue
            if count == found.shape[0]:
                found, distances = longer(found), longer(distances)
            # Of several outlines between two pixels the outermost counts, see `_outermost` in crossings.py.
            distance = abs(crossing - (inner + 0.5)) + 2.0 * own
            pair = known[min(here[0], there[0]), min(here[1], there[1])]
            at = pair[int(steep)] - 1
            if at < 0:
                at = count
                count += 1
                pair[int(steep)] = count
            elif distance <= distances[at]:
                continue
            distances[at] = distance
            found[at, 0] = first_pixel + here[0] * width + here[1]
            found[at, 1] = first_pixel + there[0] * width + there[1]
            found[at, 2] = first_vertex + start
            found[at, 3] = first_vertex + end
            found[at, 4] = line
            found[at, 5] = steep
    return found[:count]


@kernel
def between(points, corners, ids, depth, here, there, place, outline, room):
    """Whether an outline of depth `outline` at `place` is between what two pixels show: see `_visible` in crossings.py.

    Also whether the first pixel shows the outline's own surface.
    """
    inner, outer = ids[here], ids[there]
    if inner < 0:
        return False, False
    shown = np.float64(depth[here])
    own = abs(shown - outline) <= 4 * abs(shown - plane_depth(points, corners, inner, place, shown)) + room
    if outer < 0:
        return True, own
    shown = np.float64(depth[there])
    behind = shown > outline and plane_depth(points, corners, outer, place, shown) > outline + room
    return own and behind, own


@kernel
def longer(array):
    """The same with room for twice as many rows."""
    result = np.empty((2 * array.shape[0], *array.shape[1:]), array.dtype)
    result[: array.shape[0]] = array
    return result


@kernel
def side_of(clip, points, a, b, c):
    """1 or -1: on which side of a-b the vertex c lies as seen; 0 on the line."""
    if math.isnan(points[a, 0] + points[b, 0] + points[c, 0]):
        for v in (a, b, c):
            for i in range(4):
                if not abs(clip[v, i]) <= LARGEST:
                    return UNUSABLE
    ax, ay, aw = np.float64(clip[a, 0]), np.float64(clip[a, 1]), np.float64(clip[a, 3])
    bx, by, bw = np.float64(clip[b, 0]), np.float64(clip[b, 1]), np.float64(clip[b, 3])
    cx, cy, cw = np.float64(clip[c, 0]), np.float64(clip[c, 1]), np.float64(clip[c, 3])
    area = aw * (bx * cy - by * cx) + bw * (cx * ay - cy * ax) + cw * (ax * by - ay * bx)
    return 1 if area > 0 else (-1 if area < 0 else 0)


@kernel
def edge_on_screen(clip, points, start, end, height, width):
    """Whether an edge lies beyond the near plane; x, y in pixels and z / w of its ends, or of its cut by that plane."""
    here = np.float64(clip[start, 2]) + np.float64(clip[start, 3])
    there = np.float64(clip[end, 2]) + np.float64(clip[end, 3])
    if here >= 0 and there >= 0 and not math.isnan(points[start, 0]) and not math.isnan(points[end, 0]):
        a, b = points[start], points[end]
        return True, a[0], a[1], a[2], b[0], b[1], b[2]
    if here < 0 and there < 0:
        return False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    ax, ay, az = cut_on_screen(clip, start, end, here, there, height, width)
    bx, by, bz = cut_on_screen(clip, end, start, there, here, height, width)
    return not math.isnan(ax + bx), ax, ay, az, bx, by, bz


@kernel
def cut_on_screen(clip, v, other, here, there, height, width):
    """A vertex, or the place where the near plane cuts the way to another, on the screen; NaN if behind the camera."""
    share = here / (here - there) if here < 0 and there > here else 0.0
    w = clip[v, 3] + share * (np.float64(clip[other, 3]) - clip[v, 3])
    if not w > 0:
        return np.nan, np.nan, np.nan
    x = clip[v, 0] + share * (np.float64(clip[other, 0]) - clip[v, 0])
    y = clip[v, 1] + share * (np.float64(clip[other, 1]) - clip[v, 1])
    z = clip[v, 2] + share * (np.float64(clip[other, 2]) - clip[v, 2])
    return (x / w + 1) * (width / 2), (y / w + 1) * (height / 2), z / w


@kernel
def plane_depth(points, corners, f, place, otherwise):
    """z / w at a place (x, y) of the plane of a triangle; `otherwise` where it has none."""
    x, y = place
    a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
    ax, bx, cx = points[a, 0] - x, points[b, 0] - x, points[c, 0] - x
    ay, by, cy = points[a, 1] - y, points[b, 1] - y, points[c, 1] - y
    e0, e1, e2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    depth = (e0 * points[a, 2] + e1 * points[b, 2] + e2 * points[c, 2]) / (e0 + e1 + e2)
    return depth if math.isfinite(depth) else otherwise
