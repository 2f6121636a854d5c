before=$(stat -c %y same/low); cat same/low > /dev/null; [ "$before" = "$(stat -c %y same/low)" ] && echo kept
m=$(stat -c %Y doc); touch doc/x; [ "$m" != "$(stat -c %Y doc)" ] && echo changed; m=$(stat -c %y doc/deep/f40); chmod 600 doc/deep/f40; [ "$m" = "$(stat -c %y doc/deep/f40)" ] && echo kept by chmod
i=$(stat -c %i doc/deep/f41); echo x >> doc/deep/f41; [ "$i" = "$(stat -c %i doc/deep/f41)" ] && echo same number
i=$(stat -c %i doc/deep); touch doc/deep/y; mv doc/deep doc/moved; [ "$i" = "$(stat -c %i doc/moved)" ] && echo same directory
find doc -inum "$(stat -c %i doc/moved/f42)"; touch -r src/value same/low; [ same/low -nt src/value ] || [ same/low -ot src/value ] || echo as old
