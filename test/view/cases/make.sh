cd src && make -s && ./prog && touch lib/sum.h && make -s && ./prog && echo 7 > value && make -s && ./prog
ls; make -s clean; ls; gcc -c -DVALUE=1 -MD main.c && cat main.d; nm main.o | awk '{print $NF}' | sort | tr '\n' ' '
