tar cf - --sort=name --mtime=2000-01-01 --owner=0 --group=0 --numeric-owner --exclude=nested . | cksum
mkdir out; tar cf - src doc data | tar xf - -C out; diff -r src out/src && diff -r doc out/doc && echo same
tar cf ../x.tar.$$ same only; rm -r same only; tar xf ../x.tar.$$; rm ../x.tar.$$; cat same/both only/file
find . -newermt 2020-03-01 -type f | sort | grep -v out/
