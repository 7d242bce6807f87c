#!/usr/bin/env python3
"""Make the corpora of the benchmark: corpora.py FOLDER NAME SCALE

random   4 files, 4 GiB in all, incompressible
system   a copy of this machine's /usr/share and Go, and 1.2 GiB of its libraries
image    a file of 4 GiB like a disk image: bytes of this machine's /usr in blocks of 4 KiB, with runs of zeros; and image2:
         the same with 0.05 % of its blocks rewritten and three small inserts
tiny     300,000 files below 4 KiB in 3,000 folders

SCALE, 1 for these sizes, makes them smaller. random and tiny are the same bytes on every machine; system and image are of
this one, and the benchmark prints a digest of each. A corpus that is there is kept; one half made is made again.
"""
import os
import random
import shutil
import subprocess
import sys

GIB = 1 << 30
BLOCK = 4096


def make_random(root, scale):
    for i in range(4):
        with open(f"{root}/{i}.bin", "wb") as f:
            left = int(GIB * scale)
            part = 0
            while left > 0:
                f.write(random.Random(i * 1000 + part).randbytes(16 << 20)[:left])
                left -= 16 << 20
                part += 1


def make_system(root, scale):
    limit = 6 * GIB * scale
    taken = 0
    for top in ("/usr/share", "/usr/local/go"):
        if not os.path.isdir(top):
            continue
        if scale >= 1:
            subprocess.run(["cp", "-a", top, root], check=True)
            continue
        for folder, names, files in os.walk(top):
            names.sort()
            target = f"{root}/{os.path.basename(top)}{folder[len(top):]}"
            os.makedirs(target, exist_ok=True)
            for name in sorted(files) + [n for n in names if os.path.islink(f"{folder}/{n}")]:
                path = f"{folder}/{name}"
                if not (os.path.islink(path) or os.path.isfile(path)):
                    continue
                if taken > limit:
                    break
                shutil.copy2(path, f"{target}/{name}", follow_symlinks=False)
                taken += os.lstat(path).st_size
            if taken > limit:
                break
    os.makedirs(f"{root}/lib")
    taken = 0
    libraries = "/usr/lib/x86_64-linux-gnu" if os.path.isdir("/usr/lib/x86_64-linux-gnu") else "/usr/lib"
    for name in sorted(os.listdir(libraries)):
        path = f"{libraries}/{name}"
        if os.path.isfile(path) and not os.path.islink(path):
            taken += os.path.getsize(path)
            if taken > 1.2 * GIB * scale:
                break
            shutil.copy2(path, f"{root}/lib/{name}")


def make_image(root, scale):
    r = random.Random(5)
    size = int(4 * GIB * scale) // BLOCK * BLOCK
    files = []
    for folder, _, names in sorted(os.walk("/usr")):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                files.append(path)
    with open(f"{root}/disk.img", "wb") as out:
        i = 0
        while out.tell() < size:
            if r.random() < 0.003:
                out.write(bytes(r.randrange(1, 2048) * BLOCK))
            with open(files[i % len(files)], "rb") as f:
                data = f.read(16 << 20)
            out.write(data + bytes(-len(data) % BLOCK))
            i += 1
        out.truncate(size)
    second = f"{root}2"
    shutil.rmtree(second, ignore_errors=True)
    os.makedirs(second)
    parts = max(1, size // (4 << 20))
    inserts = {max(1, n * parts // 1024) for n in (100, 500, 900)}
    with open(f"{root}/disk.img", "rb") as source, open(f"{second}/disk.img", "wb") as out:
        part = 0
        while data := bytearray(source.read(4 << 20)):
            for k in range(0, len(data), BLOCK):
                if r.random() < 0.0005:
                    data[k:k + BLOCK] = r.randbytes(BLOCK)
            out.write(data)
            part += 1
            if part in inserts:
                out.write(r.randbytes(12345))


def make_tiny(root, scale):
    r = random.Random(9)
    pool = r.randbytes(1 << 20)
    for d in range(max(1, int(3000 * scale))):
        folder = f"{root}/{d // 100:03d}/{d % 100:03d}"
        os.makedirs(folder)
        for f in range(100):
            n = r.randrange(0, BLOCK)
            o = r.randrange(0, (1 << 20) - n)
            with open(f"{folder}/f{f:03d}.dat", "wb") as out:
                out.write(b"%d-%d-" % (d, f) + pool[o:o + n])


if __name__ == "__main__":
    folder, name, scale = sys.argv[1], sys.argv[2], float(sys.argv[3])
    root = f"{folder}/{name}"
    if not os.path.exists(f"{root}.made"):
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root)
        {"random": make_random, "system": make_system, "image": make_image, "tiny": make_tiny}[name](root, scale)
        open(f"{root}.made", "w").close()
