"""bench/out/ratios.png: every figure that has a goal."""
import shutil
import subprocess

from .common import out, summary, top

MOST = 8  # a longer bar is cut here; its figure stands beside it


def met(ratio, limit, better):
    return ratio <= limit if better == "low" else ratio >= limit


def plot():
    if not summary or not shutil.which("gnuplot"):
        return
    data = out / "ratios.dat"
    with open(data, "w") as f:
        for i, (label, ratio, limit, better) in enumerate(summary):
            f.write(f'{i} {min(ratio, MOST):.3f} {limit} {int(met(ratio, limit, better))} '
                    f'"{label} {"(<=" if better == "low" else "(>="} {limit})" {ratio:.2f}\n')
    script = f"""
set terminal pngcairo size 1000,{120 + 26 * len(summary)} noenhanced
set output '{out}/ratios.png'
set title 'plenum: ratios to floors and peers (tick: goal; green: met)'
set yrange [{len(summary)}:-1]; set xrange [0:{MOST + 1}]; set grid x; unset key
set style fill solid; set boxwidth 0.6; set lmargin 44; set ytics out nomirror
plot '{data}' using ($2/2):0:($2/2):(0.35):($4 > 0 ? 0x55aa55 : 0xcc5555):yticlabels(5) with boxxyerror lc rgb variable, \\
     '{data}' using 3:0:(0):(0.45) with vectors nohead lw 2 lc rgb 'black', \\
     '{data}' using 3:0:(0):(-0.45) with vectors nohead lw 2 lc rgb 'black', \\
     '{data}' using 2:0:(sprintf(' %.2f', $6)) with labels left
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    print(f"\nplot: {out.relative_to(top)}/ratios.png")


def missed():
    for label, ratio, limit, better in summary:
        if not met(ratio, limit, better):
            print(f"missed: {label}: {ratio:.2f}, goal {'at most' if better == 'low' else 'at least'} {limit}")
