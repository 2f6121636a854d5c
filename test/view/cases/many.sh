mkdir many; cd many; seq 1 3000 | xargs touch; ls | wc -l; seq 1 2 3000 | xargs rm; ls | wc -l; ls -f | grep -vc '^\.'; find . -name '1*' -delete; ls | wc -l; cd ..; rm -rf many
python3 - <<'P'
import os
names = [n for n in os.listdir("doc/deep")]
for i, e in enumerate(sorted(os.scandir("doc/deep"), key=lambda e: e.name)):
    if e.is_file() and i % 2: os.unlink(e.path)
print(len(names), len(os.listdir("doc/deep")))
P
d=.; for i in $(seq 1 40); do d=$d/directory$i; done; mkdir -p $d; echo deep > $d/f; cat $d/f; rm -r directory1
