chmod 640 doc/deep/f9; chmod -R g+w src; chmod u+s bin/script; touch -d '2001-01-01 01:01:01.5' doc/deep/f8 same; touch -h -d 2002-02-02 bin/link
stat -c '%n %a %y' doc/deep/f9 src src/lib/sum.c bin/script doc/deep/f8 same
stat -c %y bin/link; setfattr -n user.a -v 1 doc/deep/f7; getfattr -d --absolute-names doc/deep/f7 | grep a=; setfattr -x user.colour data/numbers; getfattr -d data/numbers
chmod 0 doc/deep/f6; stat -c %a doc/deep/f6; ls -l doc/deep/f6 | cut -c1-10
