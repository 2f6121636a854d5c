for s in sh bash dash 'busybox sh'; do $s -c 'cd doc/deep && echo f1? && cd ../.. && for i in same/*; do echo $i; done; echo hi > same/$$; cat same/$$; rm same/$$; [ same/both -nt same/low ]; echo $?'; done
bash -c 'shopt -s globstar; echo **/sum.*; cat < src/value > same/redirected; read x < same/redirected; echo $x; exec 5<>same/redirected; echo 9 >&5; cat same/redirected'
busybox find . -name 'f4*' | sort; busybox tar cf - src | busybox tar tf - | sort; busybox ls -l bin/link | awk '{print $1, $NF}'
printf 'a\nb\n' > p1; printf 'a\nc\n' > p2; diff -u p1 p2 | tail -n +3 > p; patch -s p1 p < p 2>/dev/null || diff -u p1 p2 | patch -s p1; cat p1; rm p p1 p2
