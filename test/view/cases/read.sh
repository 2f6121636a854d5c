find . | sort
find . -type f -size +100k -printf '%p %s %m %n %TY-%Tm-%Td\n' | sort
grep -rn 'needle 3' doc | sort
grep -rl --exclude=nested top . | sort
cat same/*; wc -l data/numbers; cksum data/random data/sparse bin/true
ls -la same bin | awk 'NR > 1 && $NF !~ "^[.]+$" {print $1, $2, $5, $9, $10, $11}' | grep -v '^total'
