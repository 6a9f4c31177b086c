// Socket.IO: rooms are topics. Its events are those of bench/scenarios/servers/socketio.toml.
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const [host, port] = process.argv[2].split(':');
const http = createServer();
const server = new Server(http, { transports: ['websocket'], perMessageDeflate: false });
server.on('connection', (socket) => {
  socket.on('join', (rooms, done) => {
    socket.join(rooms);
    done();
  });
  socket.on('publish', (room, text) => server.to(room).emit('change', text));
  socket.on('echo', (text) => socket.emit('echo', text));
});
http.listen({ host, port: Number(port), backlog: 4096 }, () => console.log('listening'));
