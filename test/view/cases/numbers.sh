i=$(stat -c %i doc/deep/f41); echo x >> doc/deep/f41; [ "$i" = "$(stat -c %i doc/deep/f41)" ] && echo same number
i=$(stat -c %i doc/deep); touch doc/deep/y; mv doc/deep doc/moved; [ "$i" = "$(stat -c %i doc/moved)" ] && echo same directory
find doc -inum "$(stat -c %i doc/moved/f42)"
