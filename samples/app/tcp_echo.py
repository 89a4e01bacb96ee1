"""Says every line back, behind a word: ``python3 -m app.tcp_echo 9000,9001,9002 hello``."""

import asyncio
import signal
import sys


async def main(ports: list[int], prefix: str) -> None:
    """Serve until SIGTERM."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        print(f"connection from {peer}", flush=True)
        try:
            while line := await reader.readline():
                writer.write(prefix.encode() + b" " + line)
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            print(f"connection from {peer} ended: {error}", flush=True)
        finally:
            writer.close()

    servers = [await asyncio.start_server(echo, None, port, backlog=1024) for port in ports]
    print(f"listening on ports {ports}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1].split(",")], sys.argv[2]))
