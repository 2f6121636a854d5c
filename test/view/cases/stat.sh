stat -c '%n %F %s %a %h %y' src/value src/main.c bin/link bin/script data/sparse data/dangling
stat -L -c '%n %F %s' bin/link data/doc
[ "$(stat -c %i bin/script)" = "$(stat -c %i bin/script2)" ] && echo one object
[ "$(stat -c %i src)" = "$(cd src/lib && stat -c %i ..)" ] && echo same parent
test -x bin/script && test ! -x doc/private && test -r doc/private && test -L bin/link && test -d data/doc && echo tests
readlink bin/link; readlink -f data/doc/deep | sed "s|$V||"; realpath bin/link | sed "s|$V||"
stat data/loop/x 2>&1 | sed 's/.*: //'; stat data/dangling/ 2>&1 | sed 's/.*: //'; stat src/value/ 2>&1 | sed 's/.*: //'
getfattr -n user.colour --only-values data/numbers; echo
