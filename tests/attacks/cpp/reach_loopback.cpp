// property: the services of this machine cannot be reached
// expect: passed

#include <arpa/inet.h>
#include <cassert>
#include <sys/socket.h>
int f(int x) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(@PORT@);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(socket(AF_INET, SOCK_STREAM, 0), (sockaddr *)&address, sizeof address) == 0 ? 7 : 2;
}
int main() { assert(f(1) == 2); }
