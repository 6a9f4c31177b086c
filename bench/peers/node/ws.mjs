// Node.js with ws. What it speaks: ../README.md.
import { WebSocketServer } from 'ws';

const [host, port] = process.argv[2].split(':');
const topics = new Map();

const server = new WebSocketServer({ host, port: Number(port), perMessageDeflate: false, backlog: 4096 }, () => console.log('listening'));
server.on('connection', (socket) => {
  const mine = [];
  socket.on('message', (data) => {
    const text = data.toString();
    if (text.startsWith('s ')) {
      for (const topic of JSON.parse(`[${text.slice(2)}]`)) {
        if (!topics.has(topic)) topics.set(topic, new Set());
        topics.get(topic).add(socket);
        mine.push(topic);
      }
      socket.send('ok');
    } else if (text.startsWith('p ')) {
      const end = text.indexOf(' ', 2);
      for (const to of topics.get(text.slice(2, end)) ?? []) to.send(text.slice(end + 1));
    } else {
      socket.send(text);
    }
  });
  socket.on('close', () => { for (const topic of mine) topics.get(topic)?.delete(socket); });
  socket.on('error', () => {});
});
