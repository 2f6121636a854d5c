mkdir -p a/b/c; mkdir doc/deep/sub; mv doc/deep/f2 doc/deep/sub/; mv doc/deep/f3 a/b/c/f3
mv same/low same/renamed; mv doc/private doc/deep/f4; cat doc/deep/f4
ln same/both same/both2; ln data/numbers a/numbers; ln -s ../x a/x; mkfifo a/pipe
[ a/numbers -ef data/numbers ] && echo one; stat -c %h a/numbers data/numbers
rm data/dangling bin/script2 only/file; rmdir only; rm -r src/lib; ls
mkdir src/lib; ls -A src/lib; echo again > only; cat only; rmdir doc 2>&1 | sed 's/.*: //'; rm -f nothing; rm nothing 2>&1 | sed 's/.*: //'
mkdir same 2>&1 | sed 's/.*: //'; mv -n src/value src/Makefile; cat src/value
mv --exchange src/value src/main.c 2>/dev/null || true
