#include <plenum/app.h>
#include <stdio.h>
int main(void)
{
    puts(pl_version());
    return 0;
}
