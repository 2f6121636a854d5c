bin/script one; ./bin/link two; "$V/bin/script" three; cd bin; ./script2 four; PATH=$PWD:$PATH script five
./snake a 'b c'; ./nested x; ./true; echo "status $?"; cp script /tmp/x.$$; /tmp/x.$$ six | sed "s/x\.$$/X/"; rm /tmp/x.$$
./missing 2>/dev/null; echo "status $?"; ../doc/private 2>/dev/null; echo "status $?"; sh ./script seven; . ./script eight | sed 's/of .*//'
env -i ./script nine; exec -a fancy ./true; echo never
