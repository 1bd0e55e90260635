# type: ignore
# (Warp compiles these functions from their source; to a checker of types they are no Python.)
"""Kernels of the CUDA backend, in NVIDIA's Warp. Warp also compiles them for the CPU, where the tests run them.

All sums are float64 and none may be fused: triangle ids agree with the other backends bit for bit. A vertex
of `screen` is x and y in pixels, z / w, 1 / w; all NaN where it is not plain (see screen.py).

Arguments in common: clip and screen (B, V); faces (B or 1, F, 3), `separate` being 1 if each item has its own and 0 if
all share them; half_width and half_height of the picture; ids (B, H, W). Arrays typed Any are float32 or float64.
"""

from typing import Any

import warp as wp

from .screen import FARTHEST, LARGEST, NEAR_W

# Warp fuses products and sums unless told not to, and makes a backward pass of its own for every kernel.
wp.set_module_options({"fuse_fp": False, "fast_math": False, "enable_backward": False})

BLOCK = 256
"""Threads that share a chunk of a large triangle; the size of every launch's blocks on CUDA."""
SMALL_BOX = 256
"""Triangles whose bounding box has more pixels than this are not drawn by one thread, but queued for many."""
CHUNK = 1024
"""Pixels of a queued triangle's box that a block draws at a time."""

NO_BID = (1 << 63) - 1
"""Bid of a pixel for which no triangle has bid yet."""

_NO_BID = wp.constant(wp.int64(NO_BID))
_SMALL_BOX = wp.constant(wp.int64(SMALL_BOX))
_CHUNK = wp.constant(wp.int64(CHUNK))
_LOW = wp.constant(wp.int64(0xFFFFFFFF))
_HIGH = wp.constant(wp.int64(1 << 32))
_NEAR_W = wp.constant(wp.float64(NEAR_W))
_FARTHEST = wp.constant(wp.float64(FARTHEST))
_LARGEST = wp.constant(wp.float64(LARGEST))
_NAN = wp.constant(wp.float64(float("nan")))
_INFINITE = wp.constant(wp.float64(float("inf")))
_ZERO = wp.constant(wp.float64(0.0))
_HALF = wp.constant(wp.float64(0.5))
_ONE = wp.constant(wp.float64(1.0))
_TWO = wp.constant(wp.float64(2.0))
_BEHIND = wp.constant(wp.float64(1e-12))
_ROOM = wp.constant(wp.float64(1e-6))
_OUTSIDE = wp.constant(wp.float32(float("nan")))


@wp.kernel
def project(clip: wp.array2d[wp.vec4d], half_width: wp.float64, half_height: wp.float64, screen: wp.array2d[wp.vec4d]):
    """Fill `screen`. One thread per item and vertex."""
    item, v = wp.tid()
    p = clip[item, v]
    w = p[3]
    limit = wp.min(_FARTHEST * w, _LARGEST)
    if w > _NEAR_W and w <= _LARGEST and wp.abs(p[0]) <= limit and wp.abs(p[1]) <= limit and wp.abs(p[2]) <= limit:
        screen[item, v] = wp.vec4d((p[0] / w + _ONE) * half_width, (p[1] / w + _ONE) * half_height, p[2] / w, _ONE / w)
    else:
        screen[item, v] = wp.vec4d(_NAN, _NAN, _NAN, _NAN)


@wp.func
def owns(dx: wp.float64, dy: wp.float64):
    """Top-left rule: whether an edge with this direction owns the pixel centres on it."""
    return dy < _ZERO or (dy == _ZERO and dx > _ZERO)


@wp.func
def depth_at(a: wp.vec4d, b: wp.vec4d, c: wp.vec4d, x: wp.float64, y: wp.float64):
    """Depth at a point of a triangle of plain corners, turned to have a positive area; NaN outside of it."""
    ax = a[0] - x
    ay = a[1] - y
    bx = b[0] - x
    by = b[1] - y
    cx = c[0] - x
    cy = c[1] - y
    e0 = bx * cy - by * cx
    e1 = cx * ay - cy * ax
    e2 = ax * by - ay * bx
    if e0 < _ZERO or e1 < _ZERO or e2 < _ZERO:
        return _OUTSIDE
    if (
        (e0 == _ZERO and not owns(c[0] - b[0], c[1] - b[1]))
        or (e1 == _ZERO and not owns(a[0] - c[0], a[1] - c[1]))
        or (e2 == _ZERO and not owns(b[0] - a[0], b[1] - a[1]))
    ):
        return _OUTSIDE
    return wp.float32((e0 * a[2] + e1 * b[2] + e2 * c[2]) / (e0 + e1 + e2))


@wp.func
def homogeneous_edge(
    a: wp.vec4d,
    b: wp.vec4d,
    a_screen: wp.vec4d,
    b_screen: wp.vec4d,
    x: wp.float64,
    y: wp.float64,
    half_width: wp.float64,
    half_height: wp.float64,
):
    """Edge function at a point, and the edge's direction; between plain vertices the sums of `depth_at`, scaled."""
    aw = a[3]
    bw = b[3]
    if not wp.isnan(a_screen[0]) and not wp.isnan(b_screen[0]):
        near = (a_screen[0] - x) * (b_screen[1] - y) - (a_screen[1] - y) * (b_screen[0] - x)
        return wp.vec3d(near * (aw * bw), b_screen[0] - a_screen[0], b_screen[1] - a_screen[1])
    ax = (a[0] + aw) * half_width
    ay = (a[1] + aw) * half_height
    bx = (b[0] + bw) * half_width
    by = (b[1] + bw) * half_height
    edge = (ax - x * aw) * (by - y * bw) - (ay - y * aw) * (bx - x * bw)
    return wp.vec3d(edge, bx * aw - ax * bw, by * aw - ay * bw)


@wp.func
def clipped_depth_at(
    a: wp.vec4d,
    b: wp.vec4d,
    c: wp.vec4d,
    a_screen: wp.vec4d,
    b_screen: wp.vec4d,
    c_screen: wp.vec4d,
    x: wp.float64,
    y: wp.float64,
    half_width: wp.float64,
    half_height: wp.float64,
):
    """`depth_at` for a triangle with a corner that is not plain (Olano and Greer 1997); a, b, c are of clip space."""
    e0 = homogeneous_edge(b, c, b_screen, c_screen, x, y, half_width, half_height)
    e1 = homogeneous_edge(c, a, c_screen, a_screen, x, y, half_width, half_height)
    e2 = homogeneous_edge(a, b, a_screen, b_screen, x, y, half_width, half_height)
    if not (e0[0] >= _ZERO and e1[0] >= _ZERO and e2[0] >= _ZERO):
        return _OUTSIDE
    if (
        (e0[0] == _ZERO and not owns(e0[1], e0[2]))
        or (e1[0] == _ZERO and not owns(e1[1], e1[2]))
        or (e2[0] == _ZERO and not owns(e2[1], e2[2]))
    ):
        return _OUTSIDE
    nearness = e0[0] * a[3] + e1[0] * b[3] + e2[0] * c[3]
    if not nearness > _ZERO:
        return _OUTSIDE
    return wp.float32((e0[0] * a[2] + e1[0] * b[2] + e2[0] * c[2]) / nearness)


@wp.func
def plain_area(a: wp.vec4d, b: wp.vec4d, c: wp.vec4d):
    """Twice the area on the screen, positive where the edge functions are positive inside."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@wp.func
def clipped_area(a: wp.vec4d, b: wp.vec4d, c: wp.vec4d):
    """The same sign from clip space, whatever the signs of w."""
    return a[3] * (b[0] * c[1] - b[1] * c[0]) + b[3] * (c[0] * a[1] - c[1] * a[0]) + c[3] * (a[0] * b[1] - a[1] * b[0])


@wp.func
def usable(p: wp.vec4d):
    """Whether no coordinate is broken or too large."""
    return (
        wp.abs(p[0]) <= _LARGEST and wp.abs(p[1]) <= _LARGEST and wp.abs(p[2]) <= _LARGEST and wp.abs(p[3]) <= _LARGEST
    )


@wp.func
def pixels_between(
    low_x: wp.float64, high_x: wp.float64, low_y: wp.float64, high_y: wp.float64, width: int, height: int
):
    """Left, right, top and bottom pixels whose centres lie in a box; right < left where there is none."""
    left = wp.max(wp.ceil(low_x - _HALF), _ZERO)
    right = wp.min(wp.floor(high_x - _HALF), wp.float64(width - 1))
    top = wp.max(wp.ceil(low_y - _HALF), _ZERO)
    bottom = wp.min(wp.floor(high_y - _HALF), wp.float64(height - 1))
    if not (left <= right and top <= bottom):
        return wp.vec4i(0, -1, 0, -1)
    return wp.vec4i(int(left), int(right), int(top), int(bottom))


@wp.func
def clipped_box(
    a: wp.vec4d, b: wp.vec4d, c: wp.vec4d, half_width: wp.float64, half_height: wp.float64, width: int, height: int
):
    """`pixels_between` for what lies behind the near plane of a triangle of clip space; a little generous."""
    low_x = _INFINITE
    high_x = -_INFINITE
    low_y = _INFINITE
    high_y = -_INFINITE
    largest = wp.max(wp.max(wp.abs(a[3]), wp.abs(b[3])), wp.abs(c[3]))
    start = a
    end = b
    for side in range(3):
        if side == 1:
            start = b
            end = c
        if side == 2:
            start = c
            end = a
        here = start[2] + start[3]
        there = end[2] + end[3]
        # The corner itself, and the place where the near plane cuts the side that begins there.
        for cut in range(2):
            part = _ZERO
            counts = here >= _ZERO
            if cut == 1:
                part = here / (here - there)
                counts = (here >= _ZERO) != (there >= _ZERO)
            if counts:
                w = start[3] + part * (end[3] - start[3])
                if not w > _BEHIND * largest:
                    return wp.vec4i(0, width - 1, 0, height - 1)
                x = ((start[0] + part * (end[0] - start[0])) / w + _ONE) * half_width
                y = ((start[1] + part * (end[1] - start[1])) / w + _ONE) * half_height
                low_x = wp.min(low_x, x)
                high_x = wp.max(high_x, x)
                low_y = wp.min(low_y, y)
                high_y = wp.max(high_y, y)
    if not (low_x <= high_x and low_y <= high_y):
        return wp.vec4i(0, -1, 0, -1)
    room_x = _ONE + _ROOM * wp.max(wp.abs(low_x), wp.abs(high_x))
    room_y = _ONE + _ROOM * wp.max(wp.abs(low_y), wp.abs(high_y))
    if not (wp.isfinite(room_x) and wp.isfinite(room_y)):
        return wp.vec4i(0, width - 1, 0, height - 1)
    return pixels_between(low_x - room_x, high_x + room_x, low_y - room_y, high_y + room_y, width, height)


@wp.func
def bid(keys: wp.array3d[wp.int64], item: int, row: int, column: int, depth: wp.float32, face: int, painter: int):
    """Let a triangle bid for a pixel: the least key wins. `painter` is the number of triangles, 0 for depth order."""
    if depth >= wp.float32(-1.0):
        key = wp.int64(painter - 1 - face)
        if painter == 0:
            if depth == wp.float32(0.0):
                depth = wp.float32(0.0)  # makes one zero of two
            # Inverting the bits of negative numbers below the sign makes them sort as the numbers do.
            bits = wp.cast(depth, wp.int32)
            if bits < 0:
                bits = bits ^ 0x7FFFFFFF
            key = wp.int64(bits) * _HIGH + wp.int64(face)
        # Keys only ever fall, so one that is too high now stays so, and most atomics are saved.
        if key < keys[item, row, column]:
            wp.atomic_min(keys, item, row, column, key)


@wp.func
def queue(
    item: int,
    face: int,
    box: wp.vec4i,
    unit: wp.int64,
    counter: wp.array[wp.int64],
    starts: wp.array[wp.int64],
    boxes: wp.array[wp.vec4i],
    owners: wp.array[wp.vec2i],
):
    """Add a triangle to those that `draw_queued` will draw.

    One atomic gives it both its place in the queue and, in the same order, its first chunk: the counter holds triangles
    in units of `unit`, and chunks below that.
    """
    pixels = wp.int64(box[1] - box[0] + 1) * wp.int64(box[3] - box[2] + 1)
    if pixels > wp.int64(0):
        before = wp.atomic_add(counter, 0, unit + (pixels + _CHUNK - wp.int64(1)) // _CHUNK)
        place = int(before // unit)
        starts[place] = before % unit
        boxes[place] = box
        owners[place] = wp.vec2i(item, face)


@wp.kernel
def draw(
    screen: wp.array2d[wp.vec4d],
    faces: wp.array3d[wp.int64],
    separate: int,
    width: int,
    height: int,
    painter: int,
    keys: wp.array3d[wp.int64],
    clipped: wp.array[wp.vec2i],
    unit: wp.int64,
    counter: wp.array[wp.int64],
    starts: wp.array[wp.int64],
    boxes: wp.array[wp.vec4i],
    owners: wp.array[wp.vec2i],
):
    """Draw small triangles of plain corners, queue large ones, list the others. One thread per item and triangle.

    Args:
        clipped: (B * F,): item and face of each triangle for `queue_clipped`.
        counter: (2,) zeros; the first is for `queue`, the second counts the triangles in `clipped`.
        starts, boxes, owners: (B * F,): first chunk, bounding box, item and face of each queued triangle.
    """
    item, f = wp.tid()
    a = screen[item, int(faces[item * separate, f, 0])]
    b = screen[item, int(faces[item * separate, f, 1])]
    c = screen[item, int(faces[item * separate, f, 2])]
    if wp.isnan(a[0] + b[0] + c[0]):
        clipped[int(wp.atomic_add(counter, 1, wp.int64(1)))] = wp.vec2i(item, f)
        return
    area = plain_area(a, b, c)
    if area == _ZERO:
        return
    if area < _ZERO:
        swapped = b
        b = c
        c = swapped
    box = pixels_between(
        wp.min(wp.min(a[0], b[0]), c[0]),
        wp.max(wp.max(a[0], b[0]), c[0]),
        wp.min(wp.min(a[1], b[1]), c[1]),
        wp.max(wp.max(a[1], b[1]), c[1]),
        width,
        height,
    )
    if wp.int64(box[1] - box[0] + 1) * wp.int64(box[3] - box[2] + 1) > _SMALL_BOX:
        queue(item, f, box, unit, counter, starts, boxes, owners)
        return
    for row in range(box[2], box[3] + 1):
        for column in range(box[0], box[1] + 1):
            depth = depth_at(a, b, c, wp.float64(column) + _HALF, wp.float64(row) + _HALF)
            bid(keys, item, row, column, depth, f, painter)


@wp.kernel
def queue_clipped(
    clip: wp.array2d[wp.vec4d],
    faces: wp.array3d[wp.int64],
    separate: int,
    half_width: wp.float64,
    half_height: wp.float64,
    width: int,
    height: int,
    clipped: wp.array[wp.vec2i],
    unit: wp.int64,
    counter: wp.array[wp.int64],
    starts: wp.array[wp.int64],
    boxes: wp.array[wp.vec4i],
    owners: wp.array[wp.vec2i],
    threads: int,
):
    """Queue what can be seen of the triangles that `draw` has listed. Any number of threads takes them in turn."""
    entry = wp.int64(wp.tid())
    while entry < counter[1]:
        item = clipped[int(entry)][0]
        f = clipped[int(entry)][1]
        a = clip[item, int(faces[item * separate, f, 0])]
        b = clip[item, int(faces[item * separate, f, 1])]
        c = clip[item, int(faces[item * separate, f, 2])]
        seen = usable(a) and usable(b) and usable(c) and wp.max(wp.max(a[3], b[3]), c[3]) > _ZERO
        if seen and clipped_area(a, b, c) != _ZERO:
            box = clipped_box(a, b, c, half_width, half_height, width, height)
            queue(item, f, box, unit, counter, starts, boxes, owners)
        entry = entry + wp.int64(threads)


@wp.kernel
def draw_queued(
    clip: wp.array2d[wp.vec4d],
    screen: wp.array2d[wp.vec4d],
    faces: wp.array3d[wp.int64],
    separate: int,
    half_width: wp.float64,
    half_height: wp.float64,
    painter: int,
    keys: wp.array3d[wp.int64],
    unit: wp.int64,
    counter: wp.array[wp.int64],
    starts: wp.array[wp.int64],
    boxes: wp.array[wp.vec4i],
    owners: wp.array[wp.vec2i],
    groups: int,
    lanes: int,
):
    """Draw what `draw` has queued. Any number of groups takes the chunks in turn, the lanes of each their pixels."""
    group, lane = wp.tid()
    chunks = counter[0] % unit
    chunk = wp.int64(group)
    while chunk < chunks:
        # The last triangle that begins at this chunk or before it.
        entry = wp.int32(0)
        last = int(counter[0] // unit) - 1
        while entry < last:
            middle = (entry + last + 1) // 2
            if starts[middle] <= chunk:
                entry = middle
            else:
                last = middle - 1
        box = boxes[entry]
        item = owners[entry][0]
        f = owners[entry][1]
        ia = int(faces[item * separate, f, 0])
        ib = int(faces[item * separate, f, 1])
        ic = int(faces[item * separate, f, 2])
        plain = not wp.isnan(screen[item, ia][0] + screen[item, ib][0] + screen[item, ic][0])
        area = _ZERO
        if plain:
            area = plain_area(screen[item, ia], screen[item, ib], screen[item, ic])
        else:
            area = clipped_area(clip[item, ia], clip[item, ib], clip[item, ic])
        if area < _ZERO:
            swapped = ib
            ib = ic
            ic = swapped
        a = screen[item, ia]
        b = screen[item, ib]
        c = screen[item, ic]
        p = clip[item, ia]
        q = clip[item, ib]
        r = clip[item, ic]
        across = wp.int64(box[1] - box[0] + 1)
        pixel = (chunk - starts[entry]) * _CHUNK
        end = wp.min(pixel + _CHUNK, across * wp.int64(box[3] - box[2] + 1))
        pixel = pixel + wp.int64(lane)
        while pixel < end:
            row = box[2] + int(pixel // across)
            column = box[0] + int(pixel % across)
            x = wp.float64(column) + _HALF
            y = wp.float64(row) + _HALF
            depth = _OUTSIDE
            if plain:
                depth = depth_at(a, b, c, x, y)
            else:
                depth = clipped_depth_at(p, q, r, a, b, c, x, y, half_width, half_height)
            bid(keys, item, row, column, depth, f, painter)
            pixel = pixel + wp.int64(lanes)
        chunk = chunk + wp.int64(groups)


@wp.func
def cross(a: wp.vec2d, b: wp.vec2d):
    return a[0] * b[1] - a[1] * b[0]


@wp.func
def weights_at(
    p: wp.vec4d,
    q: wp.vec4d,
    r: wp.vec4d,
    p_screen: wp.vec4d,
    q_screen: wp.vec4d,
    r_screen: wp.vec4d,
    x: wp.float64,
    y: wp.float64,
    half_width: wp.float64,
    half_height: wp.float64,
):
    """Barycentrics, up to a factor, from the very sums by which the triangle was found: so all have one sign."""
    if wp.isnan(p_screen[3] + q_screen[3] + r_screen[3]):
        return wp.vec3d(
            homogeneous_edge(q, r, q_screen, r_screen, x, y, half_width, half_height)[0],
            homogeneous_edge(r, p, r_screen, p_screen, x, y, half_width, half_height)[0],
            homogeneous_edge(p, q, p_screen, q_screen, x, y, half_width, half_height)[0],
        )
    a = wp.vec2d(p_screen[0] - x, p_screen[1] - y)
    b = wp.vec2d(q_screen[0] - x, q_screen[1] - y)
    c = wp.vec2d(r_screen[0] - x, r_screen[1] - y)
    return wp.vec3d(cross(b, c) * p_screen[3], cross(c, a) * q_screen[3], cross(a, b) * r_screen[3])


@wp.kernel
def resolve_any(
    clip: wp.array2d[wp.vec4d],
    screen: wp.array2d[wp.vec4d],
    faces: wp.array3d[wp.int64],
    separate: int,
    half_width: wp.float64,
    half_height: wp.float64,
    painter: int,
    keys: wp.array3d[wp.int64],
    ids: wp.array3d[wp.int32],
    barycentric: wp.array4d[Any],
    depth: wp.array3d[Any],
):
    """Fill ids, barycentric (B, H, W, 3) and depth (B, H, W) from the keys that won. One thread per pixel."""
    item, row, column = wp.tid()
    key = keys[item, row, column]
    if key == _NO_BID:
        ids[item, row, column] = -1
        barycentric[item, row, column, 0] = barycentric.dtype(0.0)
        barycentric[item, row, column, 1] = barycentric.dtype(0.0)
        barycentric[item, row, column, 2] = barycentric.dtype(0.0)
        depth[item, row, column] = depth.dtype(1.0)
        return
    f = int(key & _LOW)
    if painter > 0:
        f = painter - 1 - f
    ids[item, row, column] = f
    ia = int(faces[item * separate, f, 0])
    ib = int(faces[item * separate, f, 1])
    ic = int(faces[item * separate, f, 2])
    p = clip[item, ia]
    q = clip[item, ib]
    r = clip[item, ic]
    x = wp.float64(column) + _HALF
    y = wp.float64(row) + _HALF
    weights = weights_at(p, q, r, screen[item, ia], screen[item, ib], screen[item, ic], x, y, half_width, half_height)
    scale = _ONE / (weights[0] + weights[1] + weights[2])
    barycentric[item, row, column, 0] = barycentric.dtype(weights[0] * scale)
    barycentric[item, row, column, 1] = barycentric.dtype(weights[1] * scale)
    barycentric[item, row, column, 2] = barycentric.dtype(weights[2] * scale)
    z = weights[0] * p[2] + weights[1] * q[2] + weights[2] * r[2]
    depth[item, row, column] = depth.dtype(z / (weights[0] * p[3] + weights[1] * q[3] + weights[2] * r[3]))


@wp.func
def add_to_corner(
    total: wp.array3d[wp.float64],
    item: int,
    v: int,
    weight: wp.float64,
    dx: wp.float64,
    dy: wp.float64,
    by_z: wp.float64,
    by_w: wp.float64,
    to_x: wp.float64,
    to_y: wp.float64,
):
    """Add one pixel's gradient to a vertex; dx and dy are by its x and y, in clip space."""
    wp.atomic_add(total, item, v, 0, dx)
    wp.atomic_add(total, item, v, 1, dy)
    wp.atomic_add(total, item, v, 2, by_z * weight)
    wp.atomic_add(total, item, v, 3, by_w * weight + dx * to_x + dy * to_y)


@wp.kernel
def rasterize_backward_any(
    clip: wp.array2d[wp.vec4d],
    faces: wp.array3d[wp.int64],
    separate: int,
    half_width: wp.float64,
    half_height: wp.float64,
    ids: wp.array3d[wp.int32],
    by_barycentric: wp.array4d[Any],
    by_depth: wp.array3d[Any],
    has_barycentric: int,
    has_depth: int,
    total: wp.array3d[wp.float64],
):
    """Add to `total` (B, V, 4) the gradient by clip: see `rasterize_backward` in torch_backend. One thread per pixel.

    by_barycentric (B, H, W, 3) and by_depth (B, H, W) are the gradients given, where the flag beside them is 1.
    """
    item, row, column = wp.tid()
    f = ids[item, row, column]
    if f < 0:
        return
    given = wp.vec3d(_ZERO, _ZERO, _ZERO)
    given_depth = _ZERO
    if has_barycentric > 0:
        given = wp.vec3d(
            wp.float64(by_barycentric[item, row, column, 0]),
            wp.float64(by_barycentric[item, row, column, 1]),
            wp.float64(by_barycentric[item, row, column, 2]),
        )
    if has_depth > 0:
        given_depth = wp.float64(by_depth[item, row, column])
    # Where a loss looks at part of the picture only, this saves the atomics of the rest.
    if given[0] == _ZERO and given[1] == _ZERO and given[2] == _ZERO and given_depth == _ZERO:
        return
    ia = int(faces[item * separate, f, 0])
    ib = int(faces[item * separate, f, 1])
    ic = int(faces[item * separate, f, 2])
    p = clip[item, ia]
    q = clip[item, ib]
    r = clip[item, ic]
    # Homogeneous pixels, measured from the pixel's centre.
    x = half_width - (wp.float64(column) + _HALF)
    y = half_height - (wp.float64(row) + _HALF)
    a = wp.vec2d(p[0] * half_width + p[3] * x, p[1] * half_height + p[3] * y)
    b = wp.vec2d(q[0] * half_width + q[3] * x, q[1] * half_height + q[3] * y)
    c = wp.vec2d(r[0] * half_width + r[3] * x, r[1] * half_height + r[3] * y)
    weights = wp.vec3d(cross(b, c), cross(c, a), cross(a, b))
    # A sliver whose weights all vanish by rounding has no gradient rather than an infinite one.
    scale = _ONE / (weights[0] + weights[1] + weights[2])
    nearness = _ONE / (weights[0] * p[3] + weights[1] * q[3] + weights[2] * r[3])
    if not wp.isfinite(scale):
        scale = _ZERO
    if not wp.isfinite(nearness):
        nearness = _ZERO
    given = given * scale
    mean = wp.dot(given, weights) * scale
    by_z = given_depth * nearness
    depth = (weights[0] * p[2] + weights[1] * q[2] + weights[2] * r[2]) * nearness
    g0 = given[0] - mean + by_z * (p[2] - depth * p[3])
    g1 = given[1] - mean + by_z * (q[2] - depth * q[3])
    g2 = given[2] - mean + by_z * (r[2] - depth * r[3])
    ax = (g2 * b[1] - g1 * c[1]) * half_width
    ay = (g1 * c[0] - g2 * b[0]) * half_height
    bx = (g0 * c[1] - g2 * a[1]) * half_width
    by = (g2 * a[0] - g0 * c[0]) * half_height
    cx = (g1 * a[1] - g0 * b[1]) * half_width
    cy = (g0 * b[0] - g1 * a[0]) * half_height
    by_w = -by_z * depth
    to_x = x / half_width
    to_y = y / half_height
    add_to_corner(total, item, ia, weights[0], ax, ay, by_z, by_w, to_x, to_y)
    add_to_corner(total, item, ib, weights[1], bx, by, by_z, by_w, to_x, to_y)
    add_to_corner(total, item, ic, weights[2], cx, cy, by_z, by_w, to_x, to_y)


@wp.kernel
def interpolate_any(
    attributes: wp.array3d[Any],
    own_attributes: int,
    ids: wp.array3d[wp.int32],
    barycentric: wp.array4d[Any],
    faces: wp.array3d[wp.int64],
    separate: int,
    picture: wp.array4d[Any],
):
    """Fill picture (B, H, W, C). One thread per pixel and channel, so that neighbours write side by side.

    attributes are (B, V, C), or (1, V, C) if own_attributes is 0.
    """
    item, row, column, channel = wp.tid()
    f = ids[item, row, column]
    if f < 0:
        picture[item, row, column, channel] = picture.dtype(0.0)
        return
    table = item * own_attributes
    u = barycentric[item, row, column, 0] * attributes[table, int(faces[item * separate, f, 0]), channel]
    v = barycentric[item, row, column, 1] * attributes[table, int(faces[item * separate, f, 1]), channel]
    w = barycentric[item, row, column, 2] * attributes[table, int(faces[item * separate, f, 2]), channel]
    picture[item, row, column, channel] = u + v + w


@wp.kernel
def by_attributes_any(
    own_attributes: int,
    ids: wp.array3d[wp.int32],
    barycentric: wp.array4d[Any],
    faces: wp.array3d[wp.int64],
    separate: int,
    grad: wp.array4d[Any],
    total: wp.array3d[wp.float64],
):
    """Add to `total`, of the attributes' shape, their gradient. One thread per pixel and channel."""
    item, row, column, channel = wp.tid()
    f = ids[item, row, column]
    if f < 0:
        return
    g = wp.float64(grad[item, row, column, channel])
    if g == _ZERO:
        return
    table = item * own_attributes
    for corner in range(3):
        v = int(faces[item * separate, f, corner])
        wp.atomic_add(total, table, v, channel, g * wp.float64(barycentric[item, row, column, corner]))


@wp.kernel
def by_weights_any(
    attributes: wp.array3d[Any],
    own_attributes: int,
    ids: wp.array3d[wp.int32],
    faces: wp.array3d[wp.int64],
    separate: int,
    grad: wp.array4d[Any],
    by_weight: wp.array4d[Any],
):
    """Fill by_weight (B, H, W, 3), the gradient by the barycentrics. One thread per pixel."""
    item, row, column = wp.tid()
    f = ids[item, row, column]
    du = _ZERO
    dv = _ZERO
    dw = _ZERO
    if f >= 0:
        table = item * own_attributes
        ia = int(faces[item * separate, f, 0])
        ib = int(faces[item * separate, f, 1])
        ic = int(faces[item * separate, f, 2])
        for channel in range(attributes.shape[2]):
            g = wp.float64(grad[item, row, column, channel])
            du = du + g * wp.float64(attributes[table, ia, channel])
            dv = dv + g * wp.float64(attributes[table, ib, channel])
            dw = dw + g * wp.float64(attributes[table, ic, channel])
    by_weight[item, row, column, 0] = by_weight.dtype(du)
    by_weight[item, row, column, 1] = by_weight.dtype(dv)
    by_weight[item, row, column, 2] = by_weight.dtype(dw)


def _instances(kernel: wp.Kernel) -> dict[type, wp.Kernel]:
    """The kernel for float32 and for float64, both made now, so that the module is compiled only once."""
    generic = {arg.label: arg.type for arg in kernel.adj.args if getattr(arg.type, "dtype", None) is Any}
    shaped = {1: wp.array, 3: wp.array3d, 4: wp.array4d}
    return {
        real: wp.overload(kernel, {name: shaped[kind.ndim][real] for name, kind in generic.items()})
        for real in (wp.float32, wp.float64)
    }


resolve = _instances(resolve_any)
rasterize_backward = _instances(rasterize_backward_any)
interpolate = _instances(interpolate_any)
by_attributes = _instances(by_attributes_any)
by_weights = _instances(by_weights_any)
