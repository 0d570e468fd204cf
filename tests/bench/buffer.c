/* Preloaded into a peer, gives each netlink socket that it binds a receive buffer that loses nothing, so that
 * all read the same events: conntrack 1.4.7 sets its --buffer-size on a socket that reads none. Otherwise
 * net.core.rmem_default would have to be raised, which is the whole machine's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>

int bind(int fd, const struct sockaddr *address, socklen_t len)
{
	int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
	int buffer = 512 << 20, result = real(fd, address, len);
	if (result == 0 && address->sa_family == AF_NETLINK
		&& setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer))
		abort();
	return result;
}
