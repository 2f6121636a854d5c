before=$(stat -c %y same/low); cat same/low > /dev/null; [ "$before" = "$(stat -c %y same/low)" ] && echo kept
m=$(stat -c %Y doc); touch doc/x; [ "$m" != "$(stat -c %Y doc)" ] && echo changed; m=$(stat -c %y doc/deep/f40); chmod 600 doc/deep/f40; [ "$m" = "$(stat -c %y doc/deep/f40)" ] && echo kept by chmod
touch -r src/value same/low; [ same/low -nt src/value ] || [ same/low -ot src/value ] || echo as old
python3 -c 'import os; f = os.open("src/value", os.O_RDWR); a, b = os.fstat(f), os.stat("src/value"); print(a == b)'
