echo more >> doc/deep/f5; cat doc/deep/f5
echo new > doc/deep/new; echo over > src/main.c; : > same/low; echo x > top-only
cp data/numbers data/copy; cmp data/numbers data/copy && echo equal
sed -i 's/needle/pin/' doc/deep/f1; cat doc/deep/f1
printf 'XY' | dd of=data/random bs=1 seek=1000 conv=notrunc 2>/dev/null; stat -c %s data/random
dd if=data/random bs=1 skip=1000 count=2 2>/dev/null; echo
truncate -s 5 data/numbers; cat data/numbers; truncate -s 100 data/numbers; stat -c %s data/numbers
tee -a same/both same/low < src/value > /dev/null; cat same/both same/low
