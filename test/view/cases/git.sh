export GIT_AUTHOR_DATE='2020-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2020-01-01 00:00:00 +0000' GIT_CONFIG_NOSYSTEM=1 HOME=$V
git config --global user.email a@b; git config --global user.name N; git config --global advice.detachedHead false
git init -q -b main repo; cp -r src doc repo/; cd repo; git add -A; git commit -qm one; git rev-parse HEAD
echo x >> src/value; git rm -q -r doc/deep; git commit -qam two; git rev-parse HEAD; git checkout -q HEAD~1; ls doc/deep | wc -l; git status --short
git checkout -q main; git mv src source; git commit -qm three; git log --oneline --name-status | cat; git gc -q; git fsck --no-progress; git clone -q . ../copy; diff -r --exclude=.git . ../copy && echo clone
cd ..; rm -rf repo copy
