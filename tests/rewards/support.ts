import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { AnyRow, RewardSample } from '../../src/rewards/index.ts'

/** What a chat server was asked. */
export interface Asked { content: string, headers: IncomingHttpHeaders, body: Record<string, unknown>, path: string }

export interface ChatServer {
  /** …/v1/, with the slash that people leave at the end. */
  url: string
  asked: Asked[]
  /** Says what a request gets: a reply's text, null for no content, or whatever else it does with the response itself. */
  reply: (asked: Asked, response: ServerResponse) => string | null | undefined
  close: () => void
}

/** An OpenAI-compatible server on this machine, which says what a test makes it say. */
export async function chatServer(): Promise<ChatServer> {
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (part: Buffer) => { text += part.toString() })
    request.on('end', () => {
      const body = JSON.parse(text) as { messages: { content: string }[] }
      const one: Asked = { content: body.messages[0]!.content, headers: request.headers, body: { ...body }, path: request.url! }
      chat.asked.push(one)
      const content = chat.reply(one, response)
      if (content !== undefined) response.end(JSON.stringify({ choices: [{ message: { content } }] }))
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  const chat: ChatServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`, asked: [], reply: () => '0',
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
  return chat
}

/** An answer, for a reward function to judge. */
export const answerOf = (completion: string, { prompt = 'Which?', row = {}, tokens }: { prompt?: RewardSample['prompt'], row?: AnyRow, tokens?: number } = {}): RewardSample => ({
  prompt, completion, promptIds: Int32Array.of(1), completionIds: tokens === undefined ? Int32Array.from(Buffer.from(completion)) : new Int32Array(tokens), finishReason: 'stop', row,
})
