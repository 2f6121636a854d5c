mv doc paper; ls paper/deep | wc -l; cat paper/deep/f7; mv paper/deep paper/shallow; cat paper/shallow/f8; ls paper
mkdir doc; ls -A doc; echo fresh > doc/f; mv same other; cat other/both other/low other/top; mv other/low low2; ls other
mv src deep-src; mkdir -p x/y/z; mv deep-src x/y/z/src; cat x/y/z/src/lib/sum.h; mv x/y w; ls w/z/src
rm -rf w/z/src/lib; mv w/z/src src; ls src; mkdir src/lib; ls -A src/lib; rmdir src/lib
cp -a data data2; diff -r data data2 2>&1 | grep -v 'recursive\|dangling\|loop'; rm -rf data; ls -d data 2>&1 | sed 's/.*: //'
