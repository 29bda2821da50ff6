/* The application of the gap rows: answers each datagram with itself and this machine's name.
 *
 *   answer PORT
 *
 * In C, so that a gap is the cluster's and not the start of an interpreter.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **word) {
    if (count != 2) { fprintf(stderr, "usage: answer PORT\n"); return 2; }
    int server = socket(AF_INET6, SOCK_DGRAM, 0), both = 0, again = 1;
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(word[1])), .sin6_addr = in6addr_any};
    setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof both);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &again, sizeof again);
    if (bind(server, (void *)&at, sizeof at)) { perror("bind"); return 1; }
    char name[66] = " ";
    gethostname(name + 1, 64);
    for (;;) {
        char data[2048 + sizeof name];
        struct sockaddr_in6 from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(server, data, 2048, 0, (void *)&from, &length);
        if (got < 0) continue;
        memcpy(data + got, name, strlen(name));
        sendto(server, data, got + strlen(name), 0, (void *)&from, length); /* the address may be gone: no matter */
    }
}
